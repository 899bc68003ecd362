#[derive(Debug, clap::Args)]
pub(super) struct Run {}
pub(super) fn run(_: Run) -> anyhow::Result<()> { Ok(()) }
