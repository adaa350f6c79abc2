//! `sluice demo`.

use std::process::ExitCode;

use crate::cli::Demo;

pub(crate) fn run(_options: &Demo) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
