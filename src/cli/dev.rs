#[derive(Debug, clap::Args)]
pub(super) struct Dev {}
pub(super) async fn dev(_: Dev) -> anyhow::Result<()> { Ok(()) }
