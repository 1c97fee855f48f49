//! Decompositions: light SVD, block DCT, recombination
