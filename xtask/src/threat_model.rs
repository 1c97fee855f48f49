//! The table of messages in THREAT_MODEL.md, written from the table in code.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ledger::{Direction, Kind};

const FILE: &str = "THREAT_MODEL.md";
const BEGIN: &str = "<!-- kinds: written by `cargo xtask threat-model` from core/ledger/src/kind.rs -->\n";
const END: &str = "<!-- end of kinds -->\n";

/// Writes the table between its marks.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    std::fs::write(&path, with_table(&text, &table())?).with_context(|| format!("{}", path.display()))
}

/// Compares the table with the kinds in code.
pub(crate) fn check(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    if with_table(&text, &table())? != text {
        bail!(
            "the table of messages in {FILE} is not that of core/ledger/src/kind.rs; run `cargo xtask threat-model`"
        );
    }
    Ok(())
}

/// `text` with what stands between the marks replaced.
fn with_table(text: &str, table: &str) -> Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (_, after))) = parts else {
        bail!("{FILE} lacks the lines `{}` and `{}` around its table of messages", BEGIN.trim(), END.trim());
    };
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// One row per kind. Writing to a String cannot fail.
fn table() -> String {
    let mut text =
        "\n| kind | to whom | class | what it is | shape | guarantee |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for kind in Kind::ALL {
        let whom = match kind.direction() {
            Direction::Outward => "accelerator",
            Direction::Inward => "trusted process",
        };
        let cells =
            [kind.description(), kind.shape(), kind.guarantee()].map(|cell| cell.trim_end_matches('.'));
        let _ = writeln!(text, "| `{kind}` | {whom} | {} | {} |", kind.class(), cells.join(" | "));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}old\n{END}after\n");
        let written = with_table(&text, "new\n").expect("the marks are there");
        assert_eq!(written, format!("before\n{BEGIN}new\n{END}after\n"));
        assert_eq!(with_table(&written, "new\n").expect("still there"), written);
        for bad in ["no marks", BEGIN, &format!("{END}{BEGIN}")] {
            assert!(with_table(bad, "new\n").is_err(), "{bad}");
        }
    }

    #[test]
    fn every_kind_has_a_row_of_six_cells() {
        let table = table();
        for kind in Kind::ALL {
            let start = format!("| `{kind}` | ");
            let row = table.lines().find(|line| line.starts_with(&start)).expect("a row");
            assert_eq!(row.matches(" | ").count(), 5, "a cell with a bar in it breaks the table: {row}");
            assert!(row.contains(kind.class().name()), "{row}");
        }
    }

    #[test]
    fn the_threat_model_is_up_to_date() {
        check(&crate::root()).expect("THREAT_MODEL.md is written");
    }
}
