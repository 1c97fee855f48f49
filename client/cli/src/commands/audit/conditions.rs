//! What a run's guarantee rests on and leaves out, from its configuration and from what left; never from its summary.

use ledger::audit::Audit;

use crate::config::Config;

/// What no guarantee covers, in sentences.
pub(super) fn not_covered(audit: &Audit) -> Vec<String> {
    let unprotected = audit.unprotected();
    let mut sentences: Vec<String> =
        unprotected.map(|kind| format!("UNPROTECTED {kind}: {}", kind.description())).collect();
    if audit.anything_left() {
        sentences.push("That a record took part, and its position in the public batch order.".to_owned());
    }
    match audit.datasets.len() {
        0 | 1 => {}
        n => sentences.push(format!(
            "An image that is in several of the {n} data sets of the ledger: ε is per record of one, and its losses add up."
        )),
    }
    if audit.epsilon.is_some() {
        sentences.push(
            "The trained model, its scores and its predictions: whoever gets them learns what they reveal of the records."
                .to_owned(),
        );
    }
    sentences
}

/// What the guarantee depends on, in sentences.
pub(super) fn conditions(config: &Config, audit: &Audit) -> Vec<String> {
    let mut sentences = Vec::new();
    if !audit.mechanisms.is_empty() {
        sentences.extend(backbone(config));
        sentences.push(job_key(config));
        sentences.push(
            "Rollback protection: none; an operator who restores an older copy of the whole run directory is not noticed."
                .to_owned(),
        );
        sentences.push(format!(
            "Ledger and boundary log are chained by hashes, not signed: who can write both can replace both. Compare the \
             ledger's head with a copy kept elsewhere: {} entries, {}.",
            audit.ledger_head.sequence, audit.ledger_head.hash
        ));
    }
    sentences.push(
        "The trusted process: the log is its own account of what it sent, and without enclave hardware whoever controls \
         its machine sees every record."
            .to_owned(),
    );
    sentences
}

/// Where the map from a record to its message comes from.
fn backbone(config: &Config) -> Option<String> {
    if config.flow.kind != "delta" {
        return None;
    }
    if config.flow.stage1_epochs.unwrap_or(0) > 0 {
        return Some(
            "The backbone is trained on the same private records, so the guarantee for one record is conditional on the \
             backbone; it is unconditional only for a backbone made from public data."
                .to_owned(),
        );
    }
    let file = config.model.weights.as_ref().or(config.model.onnx.as_ref())?;
    Some(format!(
        "The backbone has the weights of {}: the guarantee is unconditional only if no private record went into them.",
        file.display()
    ))
}

fn job_key(config: &Config) -> String {
    let place = match &config.trusted.key {
        Some(path) => format!("is at {}", path.display()),
        None => "lies in the run directory (job.key)".to_owned(),
    };
    format!("The job key {place}: whoever has it and what was released can take the noise off.")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::Loaded;

    fn config(more: &str) -> Config {
        let text = format!(
            "[model]\narchitecture = \"cnn-small\"\n[data]\nformat = \"synthetic\"\n[privacy]\nepsilon = 8.0\n{more}"
        );
        Loaded::parse(&text, Path::new("RUN.toml")).unwrap().config
    }

    #[test]
    fn the_backbone_is_named_for_what_it_is() {
        let trained = config("[flow]\nkind = \"delta\"\nstage1_epochs = 2\n");
        assert!(backbone(&trained).unwrap().contains("same private records"));
        let mut given = config("[flow]\nkind = \"delta\"\nstage1_epochs = 0\n");
        assert_eq!(backbone(&given), None);
        given.model.weights = Some(PathBuf::from("public.safetensors"));
        assert!(backbone(&given).unwrap().contains("public.safetensors"));
        assert_eq!(backbone(&config("[flow]\nkind = \"plain\"\n")), None);
    }

    #[test]
    fn the_key_is_where_the_configuration_says() {
        let mut config = config("[flow]\nkind = \"delta\"\n");
        assert!(job_key(&config).contains("in the run directory"));
        config.trusted.key = Some(PathBuf::from("safe/key"));
        assert!(job_key(&config).contains("safe/key"));
    }
}
