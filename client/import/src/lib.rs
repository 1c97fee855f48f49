//! ONNX and safetensors in and out
