//! Image data sets: CIFAR, IDX, ImageFolder, synthetic
