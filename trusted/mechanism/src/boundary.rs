//! The types that say what may leave.

use std::fmt;

use ledger::{Class, Direction, Kind};
use tensor::Tensor;

use crate::Receipt;
use crate::permissions::Refused;

/// A value that depends on private data. Trusted code computes with it; it cannot be shown, encoded or sent.
///
/// `Debug` says only that something is there:
/// ```
/// # use asymflow_mechanism as mechanism;
/// let pixel = mechanism::Private::new(0.25f32);
/// assert_eq!(format!("{pixel:?}"), "Private(..)");
/// ```
/// It cannot be printed,
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// println!("{}", mechanism::Private::new(0.25f32));
/// ```
/// nor serialised,
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// serde_json::to_string(&mechanism::Private::new(0.25f32)).unwrap();
/// ```
/// nor cross the boundary, as a public value can:
/// ```
/// # use asymflow_mechanism as mechanism;
/// fn send(_: impl mechanism::Crossing) {}
/// send(mechanism::Public::declare(ledger::Kind::Control, vec![0u8], "a constant").unwrap());
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// fn send(_: impl mechanism::Crossing) {}
/// send(mechanism::Private::new(vec![0u8]));
/// ```
#[derive(Clone, Default)]
pub struct Private<T>(T);

impl<T> Private<T> {
    /// Marks a value as private.
    pub fn new(value: T) -> Self {
        Private(value)
    }

    /// The value, for trusted code.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// The value, for trusted code that changes it in place.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.0
    }

    /// The value itself; what is computed from it is private still.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// A private function of a private value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Private<U> {
        Private(f(self.0))
    }
}

impl<T> fmt::Debug for Private<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Private(..)")
    }
}

/// A value that went through a mechanism, after the ledger was charged for it.
///
/// Only the mechanisms of this crate make one; others may send it, or go on computing with it:
/// ```
/// # use asymflow_mechanism as mechanism;
/// fn count(bits: mechanism::Released<Vec<u8>>) -> mechanism::Released<usize> {
///     bits.derive(|bytes| bytes.len())
/// }
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// # fn receipt() -> mechanism::Receipt { unimplemented!() }
/// let forged = mechanism::Released { kind: ledger::Kind::ResidualBits, value: vec![0u8], receipt: receipt() };
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// # fn receipt() -> mechanism::Receipt { unimplemented!() }
/// let forged = mechanism::Released::new(ledger::Kind::ResidualBits, vec![0u8], receipt());
/// ```
#[derive(Clone)]
pub struct Released<T> {
    kind: Kind,
    value: T,
    receipt: Receipt,
}

impl<T> Released<T> {
    pub(crate) fn new(kind: Kind, value: T, receipt: Receipt) -> Self {
        Released { kind, value, receipt }
    }

    /// Several values as one message, in order; `None` of none.
    ///
    /// Its receipt is the latest of theirs: the hash of an entry commits to all entries before it.
    pub fn gather(values: Vec<Released<T>>) -> Option<Released<Vec<T>>> {
        let latest = values.iter().max_by_key(|value| value.receipt.paid().entry)?;
        let (kind, receipt) = (latest.kind, latest.receipt.clone());
        let mixed = values.iter().any(|value| value.kind != kind);
        let kind = if mixed { Kind::Derived } else { kind };
        Some(Released { kind, value: values.into_iter().map(|value| value.value).collect(), receipt })
    }

    /// A function of this value alone: post-processing, free of charge. `f` is a plain function, so it cannot capture
    /// anything private.
    pub fn derive<U>(self, f: fn(T) -> U) -> Released<U> {
        Released { kind: Kind::Derived, value: f(self.value), receipt: self.receipt }
    }
}

impl Released<Vec<Vec<u8>>> {
    /// The messages one after the other, as one of the same kind.
    pub fn concat(self) -> Released<Vec<u8>> {
        Released { kind: self.kind, value: self.value.concat(), receipt: self.receipt }
    }
}

/// A value declared to depend on no private record.
#[derive(Clone)]
pub struct Public<T> {
    kind: Kind,
    value: T,
    reason: &'static str,
}

impl<T> Public<T> {
    /// Declares `value` public, for a stated reason that the boundary log repeats.
    ///
    /// # Errors
    /// [`Refused::Class`] if the kind is not an outward public one.
    pub fn declare(kind: Kind, value: T, reason: &'static str) -> Result<Self, Refused> {
        if kind.class() != Class::Public || kind.direction() != Direction::Outward {
            return Err(Refused::Class { kind, found: kind.class(), expected: Class::Public });
        }
        Ok(Public { kind, value, reason })
    }

    /// A value that came from the accelerator and goes back to it unchanged: post-processing of what it already has.
    pub fn returned(value: T) -> Self {
        Public { kind: Kind::Derived, value, reason: "the accelerator's own state, as it sent it" }
    }
}

/// A value derived from private data that leaves without a guarantee, because the configuration names its kind.
///
/// Only [`Permissions::allow`](crate::Permissions::allow) makes one:
/// ```
/// # use asymflow_mechanism as mechanism;
/// let permissions = mechanism::Permissions::from_names(["labels"]).unwrap();
/// let labels = permissions.allow(ledger::Kind::Labels, vec![0u8]).unwrap();
/// assert!(mechanism::Permissions::none().allow(ledger::Kind::Labels, vec![0u8]).is_err());
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// let forged = mechanism::Unprotected { kind: ledger::Kind::Labels, value: vec![0u8] };
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// let forged = mechanism::Unprotected::new(ledger::Kind::Labels, vec![0u8]);
/// ```
#[derive(Clone)]
pub struct Unprotected<T> {
    kind: Kind,
    value: T,
}

impl<T> Unprotected<T> {
    pub(crate) fn new(kind: Kind, value: T) -> Self {
        Unprotected { kind, value }
    }

    /// The value, to be used again by trusted code.
    pub fn into_inner(self) -> T {
        self.value
    }
}

/// What may cross to the accelerator: [`Released`], [`Public`] and [`Unprotected`] values, and no others.
///
/// The trait is sealed; without the attempt to implement it, the example below compiles:
/// ```
/// # use asymflow_mechanism as mechanism;
/// struct Smuggled;
/// fn kind(value: &impl mechanism::Crossing<Value = Smuggled>) -> ledger::Kind { value.kind() }
/// ```
/// ```compile_fail
/// # use asymflow_mechanism as mechanism;
/// struct Smuggled;
/// impl mechanism::Crossing for Smuggled {
///     type Value = ();
///     fn kind(&self) -> ledger::Kind { ledger::Kind::Control }
///     fn value(&self) -> &() { &() }
/// }
/// ```
pub trait Crossing: sealed::Sealed {
    /// The type of the content.
    type Value;

    /// What it is.
    fn kind(&self) -> Kind;

    /// What it is that crosses.
    fn value(&self) -> &Self::Value;

    /// The ledger entry that paid for it; `None` where no mechanism was needed or used.
    fn receipt(&self) -> Option<&Receipt> {
        None
    }

    /// Why it is public, where it was declared so.
    fn declared(&self) -> Option<&'static str> {
        None
    }

    /// How it relates to private data.
    fn class(&self) -> Class {
        self.kind().class()
    }

    /// Number of bytes on the wire.
    fn byte_len(&self) -> usize
    where
        Self::Value: Payload,
    {
        self.value().byte_len()
    }

    /// Appends the bytes on the wire.
    fn write_bytes(&self, out: &mut Vec<u8>)
    where
        Self::Value: Payload,
    {
        self.value().write_bytes(out);
    }
}

/// A content with a fixed encoding: raw little-endian elements, without a length.
pub trait Payload {
    /// Number of encoded bytes.
    fn byte_len(&self) -> usize;

    /// Appends the encoded bytes.
    fn write_bytes(&self, out: &mut Vec<u8>);
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for super::Released<T> {}
    impl<T> Sealed for super::Public<T> {}
    impl<T> Sealed for super::Unprotected<T> {}
}

impl<T> Crossing for Released<T> {
    type Value = T;

    fn kind(&self) -> Kind {
        self.kind
    }

    fn value(&self) -> &T {
        &self.value
    }

    fn receipt(&self) -> Option<&Receipt> {
        Some(&self.receipt)
    }
}

impl<T> Crossing for Public<T> {
    type Value = T;

    fn declared(&self) -> Option<&'static str> {
        Some(self.reason)
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn value(&self) -> &T {
        &self.value
    }
}

impl<T> Crossing for Unprotected<T> {
    type Value = T;

    fn kind(&self) -> Kind {
        self.kind
    }

    fn value(&self) -> &T {
        &self.value
    }
}

/// Shows the kind, never the content.
macro_rules! redacted_debug {
    ($($name:ident),*) => {$(
        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.kind)
            }
        }
    )*};
}
redacted_debug!(Released, Public, Unprotected);

macro_rules! payload_of_elements {
    ($($element:ty),*) => {$(
        impl Payload for Vec<$element> {
            fn byte_len(&self) -> usize {
                size_of::<$element>() * self.len()
            }

            fn write_bytes(&self, out: &mut Vec<u8>) {
                out.reserve(self.byte_len());
                out.extend(self.iter().flat_map(|element| element.to_le_bytes()));
            }
        }
    )*};
}
payload_of_elements!(f32, u32, u64, i64);

impl Payload for Vec<Vec<u8>> {
    fn byte_len(&self) -> usize {
        self.iter().map(Vec::len).sum()
    }

    fn write_bytes(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|part| out.extend_from_slice(part));
    }
}

impl Payload for Vec<u8> {
    fn byte_len(&self) -> usize {
        self.len()
    }

    fn write_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Payload for Tensor {
    fn byte_len(&self) -> usize {
        size_of_val(self.data())
    }

    fn write_bytes(&self, out: &mut Vec<u8>) {
        out.reserve(self.byte_len());
        out.extend(self.data().iter().flat_map(|element| element.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_kinds_are_declared() {
        let seed = Public::declare(Kind::Schedule, 7u64, "the seed drives public randomness only").unwrap();
        assert_eq!((seed.kind(), *seed.value(), seed.receipt().is_none()), (Kind::Schedule, 7, true));
        for &kind in Kind::ALL.iter().filter(|kind| kind.class() != Class::Public) {
            assert!(matches!(Public::declare(kind, (), "no"), Err(Refused::Class { .. })), "{kind}");
        }
    }

    #[test]
    fn content_is_little_endian_and_never_shown() {
        let sent = Unprotected::new(Kind::Inputs, vec![1.0f32, -2.0]);
        let mut bytes = vec![9];
        sent.write_bytes(&mut bytes);
        assert_eq!(bytes, [9, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        assert_eq!(sent.byte_len(), 8);
        assert_eq!(format!("{sent:?}"), "Unprotected(inputs)");
        let tensor = Tensor::from_fn([1], |_| 1.0);
        assert_eq!(Unprotected::new(Kind::Inputs, tensor).byte_len(), 4);
    }
}
