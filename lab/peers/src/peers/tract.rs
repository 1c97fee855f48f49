//! tract: inference alone, on its own optimised form of the model as ONNX.

use anyhow::{Result, bail};
use tract_linalg::multithread::{self, Executor};
use tract_onnx::prelude::*;

use super::{Peer, Work};
use crate::protocol::{Case, Pass};
use crate::values;

pub(super) const PEER: Peer = Peer { name: "tract", version, prepare };

fn version() -> String {
    "0.23".to_owned()
}

fn prepare(case: &Case, threads: usize) -> Result<Work> {
    if !matches!(case.pass, Pass::Forward | Pass::Inference) {
        bail!("tract has no gradients");
    }
    if threads > 1 {
        multithread::set_default_executor(Executor::multithread(threads));
    }
    let file = import::onnx::write(&case.graph, &values::parameters(&case.graph))?;
    let shape = case.graph.input().batched(case.batch);
    let model = tract_onnx::onnx()
        .model_for_read(&mut file.as_slice())?
        .with_input_fact(0, f32::fact(shape.dims()).into())?
        .into_optimized()?
        .into_runnable()?;
    let input: TValue = Tensor::from_shape(shape.dims(), &values::input(case))?.into();
    Ok(Box::new(move |figure| {
        let output = model.run(tvec!(input.clone()))?;
        if !figure {
            return Ok(None);
        }
        Ok(Some(values::mean_abs(output[0].to_plain_array_view::<f32>()?.as_slice().unwrap_or_default())))
    }))
}
