//! Which unprotected kinds the configuration lets through, by name.

use std::collections::BTreeSet;

use ledger::{Class, Kind};

use crate::boundary::Unprotected;

/// The configuration's allow list; without it, nothing unprotected leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    allowed: BTreeSet<Kind>,
}

/// A message that may not leave as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// An unprotected kind that the configuration does not allow.
    #[error(
        "refused to send {kind} ({class}): {description} Nothing guarantees what they reveal; to send them all the same, add \"{kind}\" to `allow` in [privacy]",
        class = kind.class(),
        description = kind.description()
    )]
    NotAllowed {
        /// The kind that would have left.
        kind: Kind,
    },
    /// A kind that never leaves this way.
    #[error("{kind} is {found}, not {expected}: it cannot leave that way")]
    Class {
        /// The kind that would have left.
        kind: Kind,
        /// Its class.
        found: Class,
        /// The class that may leave this way.
        expected: Class,
    },
}

/// A name in the allow list that is no unprotected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[privacy] allow: \"{name}\" is not a kind of unprotected message; known: {}", known())]
pub struct UnknownKind {
    /// The name as it was written.
    pub name: String,
}

fn known() -> String {
    Kind::unprotected().map(Kind::name).collect::<Vec<_>>().join(", ")
}

impl Permissions {
    /// Nothing unprotected may leave.
    pub fn none() -> Self {
        Permissions::default()
    }

    /// The permissions of a configuration's allow list.
    ///
    /// # Errors
    /// [`UnknownKind`] if a name is not that of an unprotected kind.
    pub fn from_names<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, UnknownKind> {
        let kind = |name: S| {
            let name = name.as_ref();
            Kind::unprotected()
                .find(|k| k.name() == name)
                .ok_or_else(|| UnknownKind { name: name.to_owned() })
        };
        Ok(Permissions { allowed: names.into_iter().map(kind).collect::<Result<_, _>>()? })
    }

    /// The kinds that are allowed.
    pub fn allowed(&self) -> impl Iterator<Item = Kind> {
        self.allowed.iter().copied()
    }

    /// Whether a value of this kind could leave; for refusing a run before it starts.
    ///
    /// # Errors
    /// [`Refused`] as [`Permissions::allow`].
    pub fn check(&self, kind: Kind) -> Result<(), Refused> {
        if kind.class() != Class::Unprotected {
            return Err(Refused::Class { kind, found: kind.class(), expected: Class::Unprotected });
        }
        if self.allowed.contains(&kind) { Ok(()) } else { Err(Refused::NotAllowed { kind }) }
    }

    /// Lets one unprotected value out.
    ///
    /// - Privacy: no guarantee at all; the accelerator sees `value` as it is
    ///
    /// # Errors
    /// [`Refused::NotAllowed`] if the configuration does not name the kind, [`Refused::Class`] if it is not an
    /// unprotected one.
    pub fn allow<T>(&self, kind: Kind, value: T) -> Result<Unprotected<T>, Refused> {
        self.check(kind)?;
        Ok(Unprotected::new(kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_named() {
        let permissions = Permissions::from_names(["labels"]).unwrap();
        assert!(permissions.allow(Kind::Labels, vec![1u8]).is_ok());
        assert_eq!(permissions.check(Kind::Inputs), Err(Refused::NotAllowed { kind: Kind::Inputs }));
        assert_eq!(Permissions::none().check(Kind::Labels), Err(Refused::NotAllowed { kind: Kind::Labels }));
        let text = permissions.check(Kind::OutputGradients).unwrap_err().to_string();
        assert!(text.contains("\"output-gradients\"") && text.contains("UNPROTECTED"), "{text}");
    }

    #[test]
    fn other_classes_need_no_permission_and_get_none() {
        for &kind in Kind::ALL.iter().filter(|kind| kind.class() != Class::Unprotected) {
            assert!(matches!(Permissions::none().check(kind), Err(Refused::Class { .. })));
            assert!(Permissions::from_names([kind.name()]).is_err());
        }
        let error = Permissions::from_names(["lables"]).unwrap_err();
        assert_eq!(error.name, "lables");
        assert!(error.to_string().contains("plain-residuals"));
    }
}
