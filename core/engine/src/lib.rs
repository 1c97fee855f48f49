//! Runs a model graph forward and backward; optimisers, schedules, public randomness
