//! A walk over the protobuf bytes before the parser sees them.
//!
//! The parser recurses into subgraphs and nested types without a bound, and makes large structures from two-byte
//! messages. This walk follows the same fields, refuses what recurses, and counts what is made. It also insists on the
//! wire type of every field it knows, so that both read the same message boundaries.

use super::ImportError;

/// Most strings, messages and byte fields outside tensors.
const MAX_FIELDS: usize = 1 << 18;

/// The messages that the walk follows.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    Type,
}

/// What a field may be.
enum Field {
    Varint,
    Fixed32,
    /// A string, bytes, or a message that does not recurse.
    Bytes,
    /// Packed, or one number of this wire type.
    Packed(u8),
    Nested(Message),
    Refused(&'static str),
    Unknown,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

impl Message {
    /// Source: onnx.proto of ONNX 1.20, messages of the same names.
    fn field(self, number: u32) -> Field {
        use Field::*;
        match (self, number) {
            (Message::Model, 1 | 5) => Varint,
            (Message::Model, 2 | 3 | 4 | 6 | 8 | 14) => Bytes,
            (Message::Model, 7) => Nested(Message::Graph),
            (Message::Model, 20) => Refused("training information"),
            (Message::Model, 25) => Refused("functions"),
            (Message::Graph, 1) => Nested(Message::Node),
            (Message::Graph, 2 | 5 | 10 | 14 | 15 | 16) => Bytes,
            (Message::Graph, 11..=13) => Nested(Message::ValueInfo),
            (Message::Node, 1..=4 | 6..=9) => Bytes,
            (Message::Node, 5) => Nested(Message::Attribute),
            (Message::Attribute, 1 | 4 | 5 | 9 | 10 | 13 | 21 | 22 | 23) => Bytes,
            (Message::Attribute, 2) => Fixed32,
            (Message::Attribute, 3 | 20) => Varint,
            (Message::Attribute, 6 | 11) => Refused("subgraphs (If, Loop or Scan)"),
            (Message::Attribute, 7) => Packed(FIXED32),
            (Message::Attribute, 8) => Packed(VARINT),
            (Message::Attribute, 14 | 15) => Refused("type attributes"),
            (Message::ValueInfo, 1 | 3 | 4) => Bytes,
            (Message::ValueInfo, 2) => Nested(Message::Type),
            (Message::Type, 1 | 6) => Bytes,
            (Message::Type, 4 | 5 | 8 | 9) => Refused("values that are no tensors"),
            _ => Unknown,
        }
    }
}

/// Checks a whole model file.
pub(super) fn check(bytes: &[u8]) -> Result<(), ImportError> {
    let mut fields = 0;
    walk(Message::Model, bytes, &mut fields)
}

/// Depth is that of the schema: model, graph, node, attribute.
fn walk(message: Message, mut bytes: &[u8], fields: &mut usize) -> Result<(), ImportError> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        // The parser truncates field numbers to 32 bits, so this does too.
        let (number, wire) = ((tag >> 3) as u32, (tag & 7) as u8);
        let content = content(wire, &mut bytes)?;
        let fits = match message.field(number) {
            Field::Varint => wire == VARINT,
            Field::Fixed32 => wire == FIXED32,
            Field::Packed(single) => wire == LENGTH || wire == single,
            Field::Bytes | Field::Nested(_) => wire == LENGTH,
            Field::Refused(what) => {
                let advice = "export a plain feed-forward classifier with its weights in the file";
                return Err(ImportError::Feature { what: what.to_owned(), advice });
            }
            Field::Unknown => true,
        };
        if !fits {
            return Err(malformed("a field has the wrong wire type"));
        }
        if wire == LENGTH {
            *fields += 1;
            if *fields > MAX_FIELDS {
                return Err(ImportError::Limit { what: "nodes, names and attributes", limit: MAX_FIELDS });
            }
        }
        if let Field::Nested(inner) = message.field(number) {
            walk(inner, content, fields)?;
        }
    }
    Ok(())
}

/// The content of one field; empty unless it is length-delimited.
fn content<'a>(wire: u8, bytes: &mut &'a [u8]) -> Result<&'a [u8], ImportError> {
    let (skip, content) = match wire {
        VARINT => {
            varint(bytes)?;
            return Ok(&[]);
        }
        FIXED64 => (8, false),
        FIXED32 => (4, false),
        LENGTH => (usize::try_from(varint(bytes)?).unwrap_or(usize::MAX), true),
        _ => return Err(malformed("unknown wire type")),
    };
    let (field, rest) = bytes.split_at_checked(skip).ok_or_else(|| malformed("it ends inside a field"))?;
    *bytes = rest;
    Ok(if content { field } else { &[] })
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ImportError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| malformed("it ends inside a number"))?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("a number is too long"))
}

fn malformed(reason: &str) -> ImportError {
    ImportError::Malformed { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | LENGTH];
        let mut length = content.len();
        while length > 0x7f {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        [&bytes, content].concat()
    }

    #[test]
    fn nested_subgraphs_are_refused_however_deep() {
        let mut graph = field(1, &field(4, b"Relu"));
        for _ in 0..20_000 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        let found = check(&field(7, &graph));
        assert!(matches!(found, Err(ImportError::Feature { what, .. }) if what.contains("subgraphs")));
        let mut sequence = field(1, &[]);
        for _ in 0..20_000 {
            sequence = field(4, &field(1, &sequence));
        }
        let found = check(&field(7, &field(11, &field(2, &sequence))));
        assert!(matches!(found, Err(ImportError::Feature { .. })));
    }

    #[test]
    fn many_small_messages_are_refused() {
        let nodes = [1 << 3 | LENGTH, 0].repeat(MAX_FIELDS);
        let found = check(&field(7, &nodes));
        assert!(matches!(found, Err(ImportError::Limit { .. })));
    }

    #[test]
    fn wrong_wire_types_and_short_fields_are_malformed() {
        for bytes in [
            &[7 << 3][..],
            &[7 << 3, 5],
            &[7 << 3 | LENGTH, 9, 1],
            &[7 << 3 | 3],
            &[1 << 3 | LENGTH, 1, 0],
            &[0xff; 11],
            &[7 << 3 | LENGTH, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert!(matches!(check(bytes), Err(ImportError::Malformed { .. })), "{bytes:?}");
        }
        assert_eq!(check(&[1 << 3, 8, 9 << 3 | FIXED32, 0, 0, 0, 0]), Ok(()), "unknown fields are skipped");
    }
}
