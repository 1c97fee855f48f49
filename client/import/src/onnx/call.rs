//! One node of the file: its attributes, typed and checked, and errors that name it.

use onnx_rs::ast::{Attribute, AttributeType, Node, TensorProto};

use super::ImportError;

/// A node under import.
#[derive(Clone, Copy)]
pub(super) struct Call<'m> {
    pub(super) node: &'m Node<'m>,
    pub(super) opset: i64,
}

impl<'m> Call<'m> {
    pub(super) fn op(&self) -> &'m str {
        self.node.op_type.as_str()
    }

    /// The node's name, or that of its first output.
    pub(super) fn label(&self) -> String {
        let first = self.node.output.first().copied().unwrap_or_default();
        if self.node.name.is_empty() { first.to_owned() } else { self.node.name.to_owned() }
    }

    pub(super) fn unsupported(&self, advice: &'static str) -> ImportError {
        ImportError::Operator { node: self.label(), op: self.op().to_owned(), advice }
    }

    pub(super) fn attribute_error(&self, attribute: &str, reason: impl Into<String>) -> ImportError {
        let (op, attribute) = (self.op().to_owned(), attribute.to_owned());
        ImportError::Attribute { node: self.label(), op, attribute, reason: reason.into() }
    }

    pub(super) fn operand_error(&self, input: usize, reason: impl Into<String>) -> ImportError {
        ImportError::Operand { node: self.label(), op: self.op().to_owned(), input, reason: reason.into() }
    }

    /// Refuses attributes that are not in `known`, so that none is ignored.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ImportError> {
        match self.node.attribute.iter().find(|a| !known.contains(&a.name)) {
            Some(other) => Err(self.attribute_error(other.name, "this attribute is not supported")),
            None => Ok(()),
        }
    }

    /// Refuses any value of an integer attribute but `expected`; missing counts as `default`.
    pub(super) fn must_be(&self, name: &str, default: i64, expected: i64) -> Result<(), ImportError> {
        match self.int(name, default)? {
            found if found == expected => Ok(()),
            found => Err(self.attribute_error(name, format!("is {found}, only {expected} is supported"))),
        }
    }

    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64, ImportError> {
        Ok(self.typed(name, AttributeType::Int)?.map_or(default, |a| a.i))
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32, ImportError> {
        Ok(self.typed(name, AttributeType::Float)?.map_or(default, |a| a.f))
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<&'m [i64]>, ImportError> {
        Ok(self.typed(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    pub(super) fn floats(&self, name: &str) -> Result<Option<&'m [f32]>, ImportError> {
        Ok(self.typed(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    pub(super) fn text(&self, name: &str) -> Result<&'m [u8], ImportError> {
        Ok(self.typed(name, AttributeType::String)?.map_or(b"", |a| a.s))
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<&'m TensorProto<'m>>, ImportError> {
        Ok(self.typed(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.node.attribute.iter().any(|a| a.name == name)
    }

    /// Numbers along each of two spatial axes, non-negative; `default` where the attribute is missing.
    pub(super) fn sizes<const N: usize>(
        &self,
        name: &str,
        default: [usize; N],
    ) -> Result<[usize; N], ImportError> {
        let Some(ints) = self.ints(name)? else { return Ok(default) };
        let sizes: Option<Vec<usize>> = ints.iter().map(|&i| usize::try_from(i).ok()).collect();
        let fitting = sizes.and_then(|sizes| <[usize; N]>::try_from(sizes).ok());
        let reason =
            || format!("is {ints:?}, only {N} non-negative numbers (two spatial axes) are supported");
        fitting.ok_or_else(|| self.attribute_error(name, reason()))
    }

    fn typed(&self, name: &str, kind: AttributeType) -> Result<Option<&'m Attribute<'m>>, ImportError> {
        let Some(found) = self.node.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
        if !found.ref_attr_name.is_empty() {
            return Err(self.attribute_error(name, "refers to an attribute of a function"));
        }
        // Files older than IR version 2 leave the type out.
        if found.r#type != kind && found.r#type != AttributeType::Undefined {
            return Err(self.attribute_error(name, format!("is of type {:?}, not {kind:?}", found.r#type)));
        }
        Ok(Some(found))
    }
}
