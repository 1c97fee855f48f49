//! What the command says of itself and of wrong use: one file for each command line, under `cmd/`.

#[test]
fn command_lines() {
    let programs = asymflow_e2e::programs();
    trycmd::TestCases::new().register_bin("asymflow", programs.join("asymflow")).case("tests/cmd/*.toml");
}
