//! Messages between the processes, their codec and limits
