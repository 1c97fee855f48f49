//! Flows, placements, the interpreter and the trainer
