//! PyTorch's module names from what is left of them in an ONNX file.

use std::collections::HashMap;

use onnx_rs::ast::Node;

/// Operators that PyTorch code calls as functions: the path to them is the module that contains them.
const FUNCTIONS: [&str; 6] = ["Add", "Flatten", "Reshape", "ReduceMean", "Squeeze", "GlobalAveragePool"];

/// The module path in the name of a node: `/layer1/layer1.0/conv1/Conv` → `layer1.0.conv1`, `node_relu_1` → `relu_1`.
pub(super) fn module_path(node: &Node<'_>) -> String {
    let op = node.op_type.as_str();
    let Some(path) = node.name.strip_prefix('/') else {
        return node.name.strip_prefix("node_").unwrap_or(node.name).to_owned();
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    let last = parts.pop().unwrap_or_default();
    let mut modules: Vec<&str> = Vec::new();
    for part in parts {
        // `layer1/layer1.0`: an entry of a container repeats the container's name.
        if modules
            .last()
            .is_some_and(|outer| part.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.')))
        {
            modules.pop();
        }
        modules.push(part);
    }
    let called_here = modules.last().is_some_and(|module| module.to_lowercase().contains("pool"));
    if modules.is_empty() || (FUNCTIONS.contains(&op) && !called_here) {
        modules.push(last);
        return modules.join(".").to_lowercase();
    }
    modules.join(".")
}

/// `layer1.0.conv1.weight` → `layer1.0.conv1`.
pub(super) fn module_of_weight(name: &str) -> Option<&str> {
    name.strip_suffix(".weight").filter(|module| !module.is_empty())
}

/// Makes names unique.
#[derive(Default)]
pub(super) struct Names {
    taken: HashMap<String, usize>,
}

impl Names {
    /// `wanted`, or `wanted` with the first free number.
    pub(super) fn unique(&mut self, wanted: String) -> String {
        let mut name = wanted.clone();
        while self.taken.contains_key(&name) {
            let next = self.taken.entry(wanted.clone()).or_default();
            *next += 1;
            name = format!("{wanted}_{next}");
        }
        self.taken.insert(name.clone(), 0);
        name
    }
}

#[cfg(test)]
mod tests {
    use onnx_rs::ast::OpType;

    use super::*;

    #[test]
    fn paths_of_both_exporters() {
        for (name, op, expected) in [
            ("/conv1/Conv", "Conv", "conv1"),
            ("/layer1/layer1.0/conv1/Conv", "Conv", "layer1.0.conv1"),
            ("/layer2/layer2.0/downsample/downsample.0/Conv", "Conv", "layer2.0.downsample.0"),
            ("/layer1/layer1.0/Add", "Add", "layer1.0.add"),
            ("/layer1/layer1.0/relu_1/Relu", "Relu", "layer1.0.relu_1"),
            ("/features/features.10/MaxPool", "MaxPool", "features.10"),
            ("/avgpool/GlobalAveragePool", "GlobalAveragePool", "avgpool"),
            ("/Flatten", "Flatten", "flatten"),
            ("/Relu_1", "Relu", "relu_1"),
            ("node_max_pool2d", "MaxPool", "max_pool2d"),
            ("classifier.2", "Dropout", "classifier.2"),
            ("", "Relu", ""),
        ] {
            let node = Node { name, op_type: OpType::from(op), ..Node::default() };
            assert_eq!(module_path(&node), expected, "{name}");
        }
    }

    #[test]
    fn names_become_unique() {
        let mut names = Names::default();
        let found = ["a", "a", "a_1", "a", "b"].map(|name| names.unique(name.to_owned()));
        assert_eq!(found, ["a", "a_1", "a_1_1", "a_2", "b"]);
        assert_eq!(module_of_weight("bn.weight"), Some("bn"));
        assert_eq!(module_of_weight("onnx::Conv_12"), None);
        assert_eq!(module_of_weight(".weight"), None);
    }
}
