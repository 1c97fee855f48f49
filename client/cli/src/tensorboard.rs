//! TensorBoard event files: scalars only.
//!
//! A file is a sequence of records, `u64 length, masked CRC-32C of the length, data, masked CRC-32C of the data`, all
//! little-endian; each datum is an `Event` message of TensorBoard's `event.proto`, encoded here by hand.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers of the fields used of `Event`, `Summary`, `Summary.Value` and `SessionLog`.
mod field {
    pub(super) const WALL_TIME: u32 = 1;
    pub(super) const STEP: u32 = 2;
    pub(super) const FILE_VERSION: u32 = 3;
    pub(super) const SUMMARY: u32 = 5;
    pub(super) const SESSION_LOG: u32 = 7;
    pub(super) const VALUE: u32 = 1;
    pub(super) const TAG: u32 = 1;
    pub(super) const SIMPLE_VALUE: u32 = 2;
    pub(super) const STATUS: u32 = 1;
}

/// `SessionLog.SessionStatus.START`: TensorBoard drops what earlier files say of this step and later ones.
const START: u64 = 1;

/// Writes one event file.
pub struct EventWriter<W: Write = File> {
    file: W,
}

impl EventWriter<File> {
    /// A new event file in `folder`, which goes on after `steps_done` steps of an earlier one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, steps_done: usize) -> io::Result<Self> {
        let seconds = wall_time();
        let name = format!("events.out.tfevents.{:010}.asymflow.{}", seconds as u64, std::process::id());
        Self::start(File::options().create(true).append(true).open(folder.join(name))?, seconds, steps_done)
    }
}

impl<W: Write> EventWriter<W> {
    fn start(file: W, time: f64, steps_done: usize) -> io::Result<Self> {
        let mut writer = EventWriter { file };
        let mut version = head(time, 0);
        bytes(&mut version, field::FILE_VERSION, b"brain.Event:2");
        writer.record(&version)?;
        if steps_done > 0 {
            let mut status = Vec::new();
            varint(&mut status, field::STATUS, START);
            let mut event = head(time, steps_done as u64 + 1);
            bytes(&mut event, field::SESSION_LOG, &status);
            writer.record(&event)?;
        }
        Ok(writer)
    }

    /// Appends scalars of one step.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn scalars(&mut self, step: usize, scalars: &[(&str, f64)]) -> io::Result<()> {
        self.record(&scalar_event(wall_time(), step as u64, scalars))
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(data);
        record.extend_from_slice(&masked_crc(data).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn scalar_event(time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        bytes(&mut entry, field::TAG, tag.as_bytes());
        key(&mut entry, field::SIMPLE_VALUE, 5);
        entry.extend_from_slice(&(*value as f32).to_le_bytes());
        bytes(&mut summary, field::VALUE, &entry);
    }
    let mut event = head(time, step);
    bytes(&mut event, field::SUMMARY, &summary);
    event
}

fn head(time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, field::WALL_TIME, 1);
    event.extend_from_slice(&time.to_le_bytes());
    varint(&mut event, field::STEP, step);
    event
}

/// Field number and wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
fn key(out: &mut Vec<u8>, field: u32, kind: u32) {
    raw_varint(out, u64::from(field << 3 | kind));
}

fn varint(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, 0);
    raw_varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u32, content: &[u8]) {
    key(out, field, 2);
    raw_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn raw_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data of every record, its checksums verified.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let (length, rest) = file.split_at(8);
            let (length_crc, rest) = rest.split_at(4);
            assert_eq!(length_crc, masked_crc(length).to_le_bytes());
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (data, rest) = rest.split_at(length);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(crc, masked_crc(data).to_le_bytes());
            found.push(data.to_vec());
            file = rest;
        }
        found
    }

    /// Field number and content of every field of a message; numbers as their little-endian bytes.
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = take_varint(&mut message);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, take_varint(&mut message).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => take_varint(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            let (content, rest) = message.split_at(length);
            found.push((key >> 3, content.to_vec()));
            message = rest;
        }
        found
    }

    fn take_varint(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, rest) = message.split_first().unwrap();
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    #[test]
    fn checksum_is_crc32c_masked() {
        // The polynomial's check value, and that value masked by hand.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn scalars_read_back() {
        let mut writer = EventWriter::start(Vec::new(), 1.5, 0).unwrap();
        writer.scalars(300, &[("loss", 0.25), ("accuracy/test", 0.5)]).unwrap();
        let records = records(&writer.file);
        let version = fields(&records[0]);
        assert_eq!(version[0], (1, 1.5f64.to_le_bytes().to_vec()));
        assert_eq!(version[2], (3, b"brain.Event:2".to_vec()));
        let event = fields(&records[1]);
        assert_eq!(event[1], (2, 300u64.to_le_bytes().to_vec()));
        let values: Vec<_> = fields(&event[2].1).iter().map(|(_, value)| fields(value)).collect();
        assert_eq!(values[0], [(1, b"loss".to_vec()), (2, 0.25f32.to_le_bytes().to_vec())]);
        assert_eq!(values[1][0], (1, b"accuracy/test".to_vec()));
        assert_eq!((records.len(), values.len()), (2, 2));
    }

    #[test]
    fn a_resumed_file_begins_with_a_start() {
        let writer = EventWriter::start(Vec::new(), 0.0, 7).unwrap();
        let event = fields(&records(&writer.file)[1]);
        assert_eq!(event[1], (2, 8u64.to_le_bytes().to_vec()));
        assert_eq!(fields(&event[2].1), [(1, START.to_le_bytes().to_vec())]);
        assert_eq!(event[2].0, 7);
    }
}
