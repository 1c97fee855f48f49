//! The rank-r split over the channels of one sample.
