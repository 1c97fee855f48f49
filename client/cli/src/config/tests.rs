use proptest::prelude::*;

use super::*;

const SMALL: &str =
    "[model]\narchitecture = \"cnn-small\"\n[data]\nformat = \"synthetic\"\n[flow]\nkind = \"enclave\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Loaded::parse(text, Path::new("RUN.toml")).map(|l| l.config).map_err(|e| e.to_string())
}

/// The error of [`SMALL`] with more lines at its end.
fn error(more: &str) -> String {
    parse(&format!("{SMALL}{more}")).expect_err(more)
}

#[test]
fn every_key_but_model_data_and_flow_has_a_default() {
    let config = parse(SMALL).unwrap();
    assert_eq!((config.train.epochs, config.train.batch_size), (30, 128));
    assert_eq!(config.accelerator.address, "spawn:cpu");
    for section in ["model", "data", "flow"] {
        let without: String = SMALL
            .split('[')
            .filter(|s| !s.is_empty() && !s.starts_with(section))
            .map(|s| format!("[{s}"))
            .collect();
        assert_eq!(
            parse(&without).unwrap_err(),
            format!("RUN.toml: `{section}` is missing; every RUN.toml needs it")
        );
    }
}

#[test]
fn unknown_keys_name_line_and_nearest() {
    assert_eq!(error("[train]\nephocs = 3\n"), "RUN.toml:8: unknown key `ephocs`; did you mean `epochs`?");
    assert_eq!(error("[trian]\nepochs = 3\n"), "RUN.toml:7: unknown key `trian`; did you mean `train`?");
    assert!(error("[trusted]\nzzzzzzzz = 3\n").contains("known: where, memory, threads, precision, key"));
}

#[test]
fn wrong_values_name_key_and_line() {
    for (more, expected) in [
        ("[train]\nbatch_size = 0", ":8: train.batch_size: must be at least 1"),
        ("[train]\nbatch_size = -1", ":8: invalid value: integer `-1`, expected usize in `batch_size = -1`"),
        (
            "[train]\nepochs = \"ten\"",
            ":8: invalid type: string \"ten\", expected usize in `epochs = \"ten\"`",
        ),
        ("[train]\noptimiser = \"adam\"", ":8: `adam` is not known here; did you mean `adamw`?"),
        ("[train]\nschedule = \"step\"", ":8: train.schedule: `step` needs `milestones"),
        ("[privacy]\nepsilon = 0.0", ":8: privacy.epsilon: 0 is not a number above 0"),
        ("[privacy]\nepsilon = nan", ":8: privacy.epsilon: NaN is not a number above 0"),
        ("[privacy]\nlabels = \"withheld\"", ":8: privacy.labels: needs `label_epsilon = …`"),
        ("[privacy]\nlabel_epsilon = 1.0", ":8: privacy.label_epsilon: needs `labels = \"randomised\"`"),
        (
            "[privacy]\nepsilon = 2.0\nlabels = \"randomised\"\nlabel_epsilon = 2.0",
            ":10: privacy.label_epsilon: 2 is a part of `epsilon`, and must be below 2",
        ),
        ("[privacy]\nviews = 0", ":8: privacy.views: must be from 1"),
        ("[privacy]\nviews = 2\nrelease = \"per-step\"", ":8: privacy.views: needs `release = \"once\"`"),
        ("[privacy]\nrelease = \"twice\"", ":8: `twice` is not known here"),
        ("[privacy]\nclip = { quantile = 1.5, epsilon = 0.1 }", ":8: privacy.clip: the quantile 1.5 is not"),
        (
            "[privacy]\nclip = { quantile = 0.5 }",
            ":8: expected a number, or { quantile = 0.5, epsilon = 0.1 }",
        ),
        ("[privacy]\nclip = -1.0", ":8: privacy.clip: -1 is not a number above 0"),
        (
            "[privacy]\nallow = [\"lables\"]",
            ":8: privacy.allow: `lables` is not known here; did you mean `labels`?",
        ),
        ("[trusted]\nwhere = \"https://host:1\"", ":8: trusted.where: `https://host:1` is not available yet"),
        ("[trusted]\nmemory = \"much\"", ":8: trusted.memory: `much` is not a size"),
        ("[trusted]\nprecision = \"fp16\"", ":8: `fp16` is not known here"),
        ("[accelerator]\naddress = \"tcp:host\"", ":8: accelerator.address: `tcp:host` is not an address"),
        ("[accelerator]\naddress = \"spawn:gpu\"", ":8: accelerator.address: `spawn:gpu` is not an address"),
        ("[train", ":7: "),
    ] {
        let found = error(more);
        assert!(found.starts_with(&format!("RUN.toml{expected}")), "{found}");
    }
}

#[test]
fn flows_that_release_need_a_stated_strength() {
    let delta = SMALL.replace("enclave", "delta");
    assert!(parse(&delta).unwrap_err().contains("state `epsilon = …`, or `noise = 0.0`"));
    assert!(parse(&format!("{delta}[privacy]\nepsilon = 8.0")).is_ok());
    assert!(parse(&format!("{delta}[privacy]\nnoise = 0.0")).is_ok());
    assert!(parse(&format!("{delta}[privacy]\nnoise = 0.5")).unwrap_err().contains("only 0.0"));
    assert!(
        parse(&format!("{delta}[privacy]\nnoise = 0.0\nepsilon = 1.0")).unwrap_err().contains("not both")
    );
    let input = SMALL.replace("enclave", "dp-input");
    assert!(parse(&format!("{input}[privacy]\nepsilon = 8.0")).is_ok());
    for without in ["", "[privacy]\nnoise = 0.0"] {
        let refused = parse(&format!("{input}{without}")).unwrap_err();
        assert!(refused.contains("without noise it is the flow `plain`"), "{refused}");
    }
}

#[test]
fn precision_needs_a_trusted_part() {
    let text = |flow: &str, precision| {
        format!("{}[trusted]\nprecision = \"{precision}\"", SMALL.replace("enclave", flow))
    };
    assert_eq!(parse(SMALL).unwrap().trusted.precision, engine::Precision::F32);
    assert_eq!(parse(&text("enclave", "bf16")).unwrap().trusted.precision, engine::Precision::Bf16);
    assert!(parse(&text("plain", "f32")).is_ok());
    let noised = text("dp-input", "bf16") + "\n[privacy]\nepsilon = 8.0\n";
    assert!(parse(&noised).unwrap_err().contains("the flow `dp-input` has no trusted part"));
    let refused = parse(&text("plain", "bf16")).unwrap_err();
    assert!(
        refused.starts_with("RUN.toml:8: trusted.precision: the flow `plain` has no trusted"),
        "{refused}"
    );
}

#[test]
fn norms_by_name() {
    let norm = |name: &str| {
        let text = SMALL.replace("[data]", &format!("norm = \"{name}\"\n[data]"));
        parse(&text).map(|config| config.model.norm)
    };
    assert_eq!(parse(SMALL).unwrap().model.norm, Norm::Batch);
    assert_eq!((norm("group"), norm("frozen")), (Ok(Norm::Group), Ok(Norm::Frozen)));
    let unknown = norm("layer").unwrap_err();
    assert!(unknown.contains("RUN.toml:3") && unknown.contains("group"), "{unknown}");
}

#[test]
fn flows_and_architectures_by_name() {
    let later = parse(&SMALL.replace("enclave", "slalom")).unwrap_err();
    assert_eq!(
        later,
        "RUN.toml:6: flow.kind: `slalom` is not available yet; there are plain, enclave, asymml, delta, dp-input"
    );
    assert!(parse(&SMALL.replace("enclave", "detla")).unwrap_err().ends_with("did you mean `delta`?"));
    assert!(parse(&SMALL.replace("cnn-small", "resnet81")).unwrap_err().contains("did you mean `resnet18`?"));
}

#[test]
fn presets_give_defaults_and_the_file_goes_before() {
    for (name, text) in PRESETS {
        let preset: toml::Table = toml::from_str(text).unwrap();
        let own = format!("{SMALL}preset = \"{name}\"\nrank = 3\n[train]\nepochs = 7\nlearning_rate = 0.5\n");
        let config = parse(&own).unwrap();
        assert_eq!((config.flow.rank, config.train.epochs, config.train.learning_rate), (3, 7, Some(0.5)));
        let batch = preset["train"]["batch_size"].as_integer().unwrap() as usize;
        assert_eq!(config.train.batch_size, batch, "{name}");
    }
    assert!(error("preset = \"paper-cifra\"").contains("did you mean `paper-cifar`?"));
}

#[test]
fn what_is_written_reads_back_as_itself() {
    let text = format!(
        "{SMALL}shape = \"pooled:4\"\n[data.normalise]\nmean = [0.1]\nstd = [0.3]\n[train]\noptimiser = \"adamw\"\n[trusted]\nkey = \"k\"\n"
    );
    let mut config = parse(&text).unwrap();
    config.anchor(Path::new("/somewhere"));
    assert_eq!(config.trusted.key.as_deref(), Some(Path::new("/somewhere/k")));
    let written = toml::to_string(&config).unwrap();
    assert_eq!(parse(&written).unwrap(), config);
}

#[test]
fn shapes_and_augmentations() {
    use wire::spec::ReleaseShape;
    assert_eq!(parse_shape("pooled:4"), Some(ReleaseShape::Pooled(4)));
    assert_eq!(parse_shape("mean"), Some(ReleaseShape::Mean));
    for wrong in ["", "pooled", "pooled:", "pooled:0", "pooled:-1", "Full"] {
        assert_eq!(parse_shape(wrong), None, "{wrong}");
    }
    let words = ["flip".to_owned(), "crop4".to_owned()];
    assert_eq!(parse_augment(&words), Ok(engine::Augment { flip: true, crop: 4 }));
    for wrong in ["flop", "crop", "crop0", "crop-1", "crop65"] {
        assert_eq!(parse_augment(&[wrong.to_owned()]), Err(wrong));
    }
}

/// Some RUN.toml that is nearly right: known words, brackets and numbers in any order.
fn nearly_toml() -> impl Strategy<Value = String> {
    let words = "\\[model\\]|\\[train\\]|\\[flow\\]|\\[privacy\\]|epochs|kind|rank|epsilon|preset|architecture|=|\"delta\"|\"paper-cifar\"|\\{|\\}|\\[|\\]|,|\"|nan|-1|1e400|0x7fffffffffffffff|\n|\\PC";
    proptest::collection::vec(proptest::string::string_regex(words).expect("a regular expression"), 0..40)
        .prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn any_text_is_read_or_explained(text in nearly_toml(), behind: bool) {
        let text = if behind { format!("{SMALL}{text}") } else { text };
        if let Err(error) = Loaded::parse(&text, Path::new("RUN.toml")) {
            prop_assert!(error.to_string().starts_with("RUN.toml"));
        }
    }
}
