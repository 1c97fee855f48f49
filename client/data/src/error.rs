use std::io;
use std::path::PathBuf;

/// Why a data set or an image cannot be had. The text is complete: there is no source to print after it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No format has that name.
    #[error(
        "no data format is called `{found}`; there are cifar10, cifar100, idx, imagefolder and synthetic"
    )]
    UnknownFormat {
        /// What was asked for.
        found: String,
    },
    /// A setting makes no sense, or not for this format.
    #[error("{key}: {problem}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// None of the files that could hold the data is there.
    #[error("{}: found none of {looked_for}", folder.display())]
    Missing {
        /// Where they should be.
        folder: PathBuf,
        /// Their names.
        looked_for: String,
    },
    /// The operating system would not read it.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        reason: io::Error,
    },
    /// A file does not hold what its format says.
    #[error("{}: {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong in it, and where.
        problem: ContentError,
    },
    /// Two files that go together differ in the number of records.
    #[error(
        "{} has {images} images but {} has {labels} labels: they are not of one data set",
        images_file.display(),
        labels_file.display()
    )]
    Count {
        /// The file of images.
        images_file: PathBuf,
        /// Records in it.
        images: usize,
        /// The file of labels.
        labels_file: PathBuf,
        /// Records in it.
        labels: usize,
    },
    /// A picture is damaged, or of a kind that is not read.
    #[error("{}: cannot decode: {reason}; JPEG and PNG are read", file.display())]
    Decode {
        /// The file.
        file: PathBuf,
        /// The decoder's reason.
        reason: image::ImageError,
    },
    /// A folder is not laid out as an image folder.
    #[error("{}: {problem}; expected train/CLASS/IMAGE.jpg|png and val/CLASS/… or test/CLASS/…", folder.display())]
    Layout {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A class has test images but no training images.
    #[error("{}: no class `{class}` in train/; test images need a class with training images", folder.display())]
    UnknownClass {
        /// The folder of the test images.
        folder: PathBuf,
        /// Its name.
        class: String,
    },
    /// The pixels do not fit into memory.
    #[error(
        "{records} records of {record_bytes} bytes do not fit into memory; set a limit or a smaller crop"
    )]
    Memory {
        /// Records to hold.
        records: usize,
        /// Bytes of each.
        record_bytes: usize,
    },
}

/// What is wrong in the bytes of a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Not a whole number of records.
    #[error("file has {found} bytes; a whole number of {record}-byte records, at least one, is expected")]
    Records {
        /// Bytes in the file.
        found: u64,
        /// Bytes in a record.
        record: usize,
    },
    /// A label is beyond the classes.
    #[error("label {label} of {classes} classes at record {record}")]
    Label {
        /// The label.
        label: usize,
        /// How many classes there are.
        classes: usize,
        /// The record, counted from 0.
        record: usize,
    },
    /// Another kind of file.
    #[error("starts with {found:#010x}; {expected:#010x} ({what}) is expected")]
    Magic {
        /// The first four bytes, big-endian.
        found: u32,
        /// What they should be.
        expected: u32,
        /// What that means.
        what: &'static str,
    },
    /// Fewer or more bytes than the header says.
    #[error("file has {found} bytes; {expected} are expected from its header")]
    Length {
        /// Bytes there are, after decompression; one more than expected stands for any number more.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// A dimension of zero, or a product beyond what is read.
    #[error("{dims:?} in the header: every dimension must be positive and the whole at most {most} bytes")]
    Dimensions {
        /// The dimensions in the header.
        dims: Vec<u32>,
        /// The most bytes that are read.
        most: u64,
    },
    /// The gzip stream is damaged.
    #[error("damaged gzip stream: {problem}")]
    Gzip {
        /// The decoder's reason.
        problem: String,
    },
    /// The names do not fit the classes.
    #[error("has {found} class names; {expected}, one on each line, are expected")]
    ClassNames {
        /// Names found.
        found: usize,
        /// Classes there are.
        expected: usize,
    },
    /// A file larger than is read.
    #[error("file has {found} bytes; at most {most} are read")]
    TooLarge {
        /// Bytes in it.
        found: u64,
        /// The most bytes.
        most: u64,
    },
    /// A picture without pixels, or with more than are decoded, before or after resizing.
    #[error("picture of {width}×{height}; at least one and at most {most} pixels are decoded")]
    Picture {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The most pixels.
        most: u64,
    },
    /// A JPEG file without its end.
    #[error("JPEG data stops before its end marker: the file is truncated or damaged")]
    Unfinished,
}
