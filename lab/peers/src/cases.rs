//! What is measured.

use anyhow::{Context, Result};
use kernels::conv2d::Conv2d;
use model::{Graph, GraphBuilder, ValueId, zoo};
use tensor::Shape;

use crate::protocol::{Case, Pass};

/// Input channels, output channels, height and width, kernel, stride, batch.
const CONVOLUTIONS: [[usize; 6]; 9] = [
    [64, 64, 32, 3, 1, 32],
    [128, 128, 16, 3, 1, 32],
    [256, 256, 8, 3, 1, 32],
    [512, 512, 4, 3, 1, 32],
    [64, 256, 32, 1, 1, 32],
    [64, 128, 32, 3, 2, 32],
    [3, 64, 32, 3, 1, 32],
    [64, 64, 56, 3, 1, 8],
    [3, 64, 224, 7, 2, 8],
];

/// Architecture, height and width of its images, classes, batch.
const MODELS: [(&str, usize, usize, usize); 4] = [
    ("resnet18-cifar", 32, 10, 32),
    ("vgg16-bn-cifar", 32, 10, 32),
    ("resnet18", 224, 1000, 8),
    ("vgg16", 224, 1000, 8),
];

/// The cases whose `name/pass` contains one of `wanted`; all of them if that is empty.
///
/// # Errors
/// If a name fits none.
pub(crate) fn chosen(wanted: &[String]) -> Result<Vec<Case>> {
    let all = all()?;
    for name in wanted {
        all.iter()
            .find(|case| case.id().contains(name))
            .with_context(|| format!("no case is called `{name}`; known are {}", names(&all)))?;
    }
    let fits = |case: &Case| wanted.is_empty() || wanted.iter().any(|name| case.id().contains(name));
    Ok(all.into_iter().filter(fits).collect())
}

fn names(cases: &[Case]) -> String {
    cases.iter().map(Case::id).collect::<Vec<_>>().join(", ")
}

fn all() -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for shape in CONVOLUTIONS {
        let (name, graph) = convolution(shape)?;
        for pass in [Pass::Forward, Pass::ForwardBackward] {
            cases.push(Case { name: name.clone(), graph: graph.clone(), batch: shape[5], pass });
        }
    }
    for (name, side, classes, batch) in MODELS {
        let graph = zoo::build(name, Shape::from([3, side, side]), classes)?;
        for pass in [Pass::Inference, Pass::Training] {
            cases.push(Case { name: name.to_owned(), graph: graph.clone(), batch, pass });
        }
    }
    Ok(cases)
}

fn convolution([c, k, side, kernel, stride, _]: [usize; 6]) -> Result<(String, Graph)> {
    let strided = if stride == 1 { String::new() } else { format!("-s{stride}") };
    let name = format!("conv-{c}-{k}-{side}-{kernel}{strided}");
    let mut builder = GraphBuilder::try_new(name.clone(), Shape::from([c, side, side]))?;
    let op = Conv2d::new(c, k, kernel).stride(stride).padding(kernel / 2);
    builder.add("conv", op, &[ValueId::INPUT])?;
    Ok((name, builder.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose() {
        assert_eq!(all().unwrap().len(), 2 * (CONVOLUTIONS.len() + MODELS.len()));
        let ids = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&w| w.to_owned()).collect();
            chosen(&wanted).map(|cases| cases.iter().map(Case::id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&["conv-64-64-32-3/forward+"]).unwrap(), ["conv-64-64-32-3/forward+backward"]);
        assert_eq!(ids(&["training", "inference"]).unwrap().len(), 8);
        assert!(ids(&["resnet50"]).unwrap_err().to_string().contains("resnet18-cifar/training"));
    }

    #[test]
    fn cases_survive_the_wire() {
        let case = chosen(&["resnet18-cifar/training".to_owned()]).unwrap().remove(0);
        let line = serde_json::to_string(&case).unwrap();
        let read: Case = serde_json::from_str(&line).unwrap();
        assert_eq!((&read.graph, read.id()), (&case.graph, case.id()));
        // 0.56 GMAC per image, forward and two gradients, batch 32.
        assert!((1.05e11..1.1e11).contains(&case.operations()), "{}", case.operations());
    }
}
