use model::{GraphError, ParametersError};

/// An ONNX file that is not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    #[error("not a readable ONNX file: {reason}")]
    Malformed { reason: String },
    #[error("the ONNX file has {what}, which is not supported; {advice}")]
    Feature { what: String, advice: &'static str },
    #[error("the ONNX file has more than {limit} {what}")]
    Limit { what: &'static str, limit: usize },
    #[error("opset {found} is not supported; export with an opset from 9 to 28, such as 17")]
    Opset { found: i64 },
    #[error("the model needs exactly one input and one output, it has {what}: {names}")]
    Ends { what: &'static str, names: String },
    #[error("input `{name}`: {reason}; export with float images [N, C, H, W], only N dynamic")]
    Input { name: String, reason: &'static str },
    #[error("node `{node}`: operator {op} is not supported; {advice}")]
    Operator { node: String, op: String, advice: &'static str },
    #[error("node `{node}` ({op}), attribute `{attribute}`: {reason}")]
    Attribute { node: String, op: String, attribute: String, reason: String },
    #[error("node `{node}` ({op}), input {input}: {reason}")]
    Operand { node: String, op: String, input: usize, reason: String },
    #[error("node `{node}` ({op}) reads `{value}`, which no earlier node makes")]
    Dangling { node: String, op: String, value: String },
    #[error("two nodes or initialisers make `{value}`")]
    Twice { value: String },
    #[error("tensor `{name}`: {reason}")]
    Tensor { name: String, reason: String },
    #[error("tensor `{name}` is in another file; save the model as one file (`save_as_external_data=False`)")]
    ExternalData { name: String },
    #[error("the model: {0}")]
    Graph(#[from] GraphError),
    #[error("the model's weights: {0}")]
    Parameters(#[from] ParametersError),
    #[error("node `{node}` ({op}) cannot be written as ONNX: {reason}")]
    Export { node: String, op: &'static str, reason: &'static str },
}
