use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Name of a mechanism with every parameter that shapes its output, as the ledger and the noise derivation use it.
///
/// Two mechanisms with the same name are the same function of a record; any difference must show in it, or two releases
/// would share their noise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MechanismId(Arc<str>);

impl MechanismId {
    /// A mechanism of that name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        MechanismId(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MechanismId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
