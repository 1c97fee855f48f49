use model::zoo;

use super::*;

fn model() -> (Graph, Parameters) {
    let graph = zoo::build_with_width("cnn-small", [1, 8, 8].into(), 3, 4).unwrap();
    let parameters = Parameters::init(&graph, 11);
    (graph, parameters)
}

fn file(tensors: &[Raw]) -> Vec<u8> {
    safetensors::serialize(tensors.iter().map(|raw| view(raw).unwrap()), None).unwrap()
}

/// Every tensor of the model as raw bytes, changed by `change`.
fn changed(change: impl Fn(&mut Raw)) -> Result<Parameters, WeightsError> {
    let (graph, parameters) = model();
    let raw = |(name, tensor): (String, &Tensor)| {
        let bytes = tensor.data().iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut raw = (name, Dtype::F32, tensor.shape().dims().to_vec(), bytes);
        change(&mut raw);
        raw
    };
    let tensors: Vec<Raw> = parameters.named(&graph).map(raw).filter(|(name, ..)| !name.is_empty()).collect();
    read_safetensors(&file(&tensors), &graph)
}

#[test]
fn reads_back_what_it_wrote() {
    let (graph, parameters) = model();
    let part = Part { prefix: "", graph: &graph, parameters: &parameters };
    let bytes = write_safetensors(&[part]).unwrap();
    assert_eq!(read_safetensors(&bytes, &graph), Ok(parameters));
    let open = SafeTensors::deserialize(&bytes).unwrap();
    let counter = open.tensor("bn1.num_batches_tracked").unwrap();
    assert_eq!((counter.dtype(), counter.shape(), counter.data()), (Dtype::I64, &[][..], &[0u8; 8][..]));
}

#[test]
fn several_models_share_a_file() {
    let (graph, one) = model();
    let two = Parameters::init(&graph, 12);
    let part = |prefix, parameters| Part { prefix, graph: &graph, parameters };
    let bytes = write_safetensors(&[part("main.", &one), part("residual.", &two)]).unwrap();
    assert_eq!(read_safetensors_part(&bytes, &graph, "main."), Ok(one));
    assert_eq!(read_safetensors_part(&bytes, &graph, "residual."), Ok(two));
    assert!(matches!(read_safetensors(&bytes, &graph), Err(WeightsError::Unexpected { .. })));
}

#[test]
fn every_mismatch_names_the_tensor() {
    assert!(changed(|_| ()).is_ok(), "batch counters may be missing");
    let renamed = changed(|raw| raw.0 = raw.0.replace("fc.", "head."));
    assert_eq!(renamed, Err(WeightsError::Unexpected { name: "head.bias".into() }));
    let missing = changed(|raw| raw.0 = raw.0.replace("fc.bias", ""));
    let expected = ParametersError::Missing { name: "fc.bias".into() };
    assert_eq!(missing, Err(WeightsError::Parameters(expected)));
    let flat = changed(|raw| {
        if raw.0 == "conv2.weight" {
            raw.2 = vec![raw.2.iter().product()];
        }
    });
    assert!(
        matches!(&flat, Err(WeightsError::Parameters(ParametersError::Shape { name, .. })) if name == "conv2.weight")
    );
    let integers = changed(|raw| {
        if raw.0 == "fc.weight" {
            raw.1 = Dtype::I32;
        }
    });
    assert_eq!(integers, Err(WeightsError::Type { name: "fc.weight".into(), found: "I32".into() }));
    let nan = changed(|raw| {
        if raw.0 == "bn2.running_var" {
            raw.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    });
    let expected = ParametersError::NotFinite { name: "bn2.running_var".into() };
    assert_eq!(nan, Err(WeightsError::Parameters(expected)));
    let deep = changed(|raw| {
        if raw.0 == "fc.bias" {
            raw.2 = vec![1, 1, 1, 1, 3];
        }
    });
    assert_eq!(deep, Err(WeightsError::Axes { name: "fc.bias".into() }));
}

#[test]
fn other_precisions_are_converted() {
    let (graph, parameters) = model();
    let convert = |dtype: Dtype, bytes: fn(f32) -> Vec<u8>| {
        let converted = changed(|raw| {
            raw.1 = dtype;
            raw.3 = numbers(&raw.3, f32::from_le_bytes).into_iter().flat_map(bytes).collect();
        });
        converted.unwrap()
    };
    assert_eq!(convert(Dtype::F64, |x| f64::from(x).to_le_bytes().to_vec()), parameters);
    let bfloat = convert(Dtype::BF16, |x| x.to_le_bytes()[2..].to_vec());
    let pairs = parameters
        .named(&graph)
        .flat_map(|(_, t)| t.data())
        .zip(bfloat.named(&graph).flat_map(|(_, t)| t.data()));
    for (x, y) in pairs {
        assert!((x - y).abs() <= x.abs() / 128.0, "eight significant bits");
    }
}

#[test]
fn damaged_files_never_panic() {
    let (graph, parameters) = model();
    let part = Part { prefix: "", graph: &graph, parameters: &parameters };
    let bytes = write_safetensors(&[part]).unwrap();
    for cut in 0..bytes.len() {
        assert!(matches!(read_safetensors(&bytes[..cut], &graph), Err(WeightsError::Malformed { .. })));
    }
    let mut state = 20_240_901u64;
    for _ in 0..3000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = bytes.clone();
        // The header is where damage is interesting; a changed number is another valid file.
        let at = (state >> 33) as usize % 4096.min(bytes.len());
        damaged[at] = (state >> 24) as u8;
        if let Ok(parameters) = read_safetensors(&damaged, &graph) {
            assert!(parameters.fits(&graph));
        }
    }
}
