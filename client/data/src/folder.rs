//! Pictures in one folder for each class: `train/CLASS/IMAGE`, and `val/CLASS/IMAGE` or `test/CLASS/IMAGE`.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use crate::{DataError, Images, Split, decode_image, files};

/// Names that end so are of pictures; those of kinds that are not read fail in the decoder rather than go missing.
const PICTURES: [&str; 14] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff", "heic", "heif", "avif", "ppm"];

pub(crate) fn load(
    folder: &Path,
    split: Split,
    limit: usize,
    resize: usize,
    crop: usize,
) -> Result<Images, DataError> {
    let (classes, mut pictures) = listed(folder, split)?;
    evenly(&mut pictures, limit);
    let labels = pictures.iter().map(|picture| picture.label).collect();
    let shape = [3, crop, crop];
    Ok(Images { shape, pixels: decode_all(&pictures, shape, resize)?, labels, classes })
}

/// How many pictures there are.
pub(crate) fn count(folder: &Path, split: Split) -> Result<usize, DataError> {
    Ok(listed(folder, split)?.1.len())
}

/// The classes of a data set, and the pictures of one split.
fn listed(folder: &Path, split: Split) -> Result<(Vec<String>, Vec<Picture>), DataError> {
    let train = split_folder(folder, &["train"])?;
    let classes = sub_folders(&train)?;
    if classes.is_empty() {
        return Err(layout(&train, "no class folders in it".into()));
    }
    let classes: Vec<String> = classes.iter().map(|path| name(path)).collect();
    let pictures = match split {
        Split::Train => pictures(&train, &classes)?,
        Split::Test => pictures(&split_folder(folder, &["val", "test"])?, &classes)?,
    };
    if split == Split::Train {
        require_each_class(&train, &classes, &pictures)?;
    }
    Ok((classes, pictures))
}

struct Picture {
    path: PathBuf,
    label: u16,
    /// Place among the pictures of its class.
    rank: usize,
}

/// The first of the folders `names` that is there.
fn split_folder(folder: &Path, names: &[&str]) -> Result<PathBuf, DataError> {
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_dir());
    found.ok_or_else(|| layout(folder, format!("no folder {} in it", names.join("/ or ") + "/")))
}

/// The pictures of all classes, in the order of class and name.
fn pictures(folder: &Path, classes: &[String]) -> Result<Vec<Picture>, DataError> {
    let mut pictures = Vec::new();
    for class in sub_folders(folder)? {
        let unknown = || DataError::UnknownClass { folder: folder.to_owned(), class: name(&class) };
        let label = classes.binary_search(&name(&class)).map_err(|_| unknown())?;
        let label =
            u16::try_from(label).map_err(|_| layout(folder, "more than 65,536 class folders".into()))?;
        let paths = pictures_of_class(&class)?.into_iter().enumerate();
        pictures.extend(paths.map(|(rank, path)| Picture { path, label, rank }));
    }
    if pictures.is_empty() {
        return Err(layout(folder, "no pictures in its class folders".into()));
    }
    Ok(pictures)
}

/// Class folders, sorted by name. A picture beside them would be lost, so it is an error.
fn sub_folders(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let (mut classes, others): (Vec<_>, Vec<_>) =
        visible(folder)?.into_iter().partition(|path| path.is_dir());
    if let Some(stray) = others.iter().find(|path| is_picture(path)) {
        return Err(layout(folder, format!("picture {} is in no class folder", name(stray))));
    }
    classes.sort_by_key(|path| name(path));
    Ok(classes)
}

fn pictures_of_class(class: &Path) -> Result<Vec<PathBuf>, DataError> {
    let (folders, files): (Vec<_>, Vec<_>) = visible(class)?.into_iter().partition(|path| path.is_dir());
    if let Some(inner) = folders.first() {
        return Err(layout(
            class,
            format!("a class folder holds pictures, not folders such as {}", name(inner)),
        ));
    }
    Ok(files.into_iter().filter(|path| is_picture(path)).collect())
}

fn visible(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    Ok(files::list(folder)?.into_iter().filter(|path| !name(path).starts_with('.')).collect())
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| PICTURES.contains(&ending.as_str()))
}

fn require_each_class(folder: &Path, classes: &[String], pictures: &[Picture]) -> Result<(), DataError> {
    let mut seen = vec![false; classes.len()];
    pictures.iter().for_each(|picture| seen[usize::from(picture.label)] = true);
    match seen.iter().position(|&seen| !seen) {
        Some(empty) => Err(layout(folder, format!("no pictures of class `{}`", classes[empty]))),
        None => Ok(()),
    }
}

/// Keeps the first `limit`, counting first pictures of all classes, then second ones, and so on.
fn evenly(pictures: &mut Vec<Picture>, limit: usize) {
    pictures.sort_by_key(|picture| (picture.rank, picture.label));
    pictures.truncate(limit);
    pictures.sort_by_key(|picture| (picture.label, picture.rank));
}

/// Pixels `[N, C, H, W]`, decoded by as many threads as there are processors.
fn decode_all(pictures: &[Picture], shape: [usize; 3], resize: usize) -> Result<Vec<u8>, DataError> {
    const UNPOISONED: &str = "no thread panics while it holds a lock";
    let size = shape.iter().product();
    let mut pixels = files::reserve(pictures.len(), size)?;
    let jobs = Mutex::new(pictures.iter().zip(pixels.chunks_exact_mut(size)).enumerate());
    let faults = Mutex::new(Vec::new());
    let work = || {
        loop {
            let failed = !faults.lock().expect(UNPOISONED).is_empty();
            let job = jobs.lock().expect(UNPOISONED).next();
            let Some((n, (picture, record))) = job.filter(|_| !failed) else { break };
            match decode_image(&picture.path, shape, Some(resize)) {
                Ok(decoded) => record.copy_from_slice(&decoded),
                Err(fault) => faults.lock().expect(UNPOISONED).push((n, fault)),
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(pictures.len());
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let faults = faults.into_inner().expect(UNPOISONED);
    // Jobs are taken in order, so the first fault is always among those found.
    match faults.into_iter().min_by_key(|(n, _)| *n) {
        Some((_, fault)) => Err(fault),
        None => Ok(pixels),
    }
}

fn layout(folder: &Path, problem: String) -> DataError {
    DataError::Layout { folder: folder.to_owned(), problem }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
