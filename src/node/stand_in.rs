//! To be replaced by the node.

use std::sync::Arc;

use super::api::*;
use super::fake::Fake;
use crate::config::Config;

#[derive(Debug, Clone)]
pub struct Node(pub Arc<Fake>);

impl Node {
    pub async fn start(config: Config, _: Timings) -> Result<Self, std::io::Error> {
        std::fs::create_dir_all(&config.data_dir)?;
        let fake = Fake::default();
        config.join.iter().for_each(|peer| drop(fake.add_peer(peer.as_str().to_owned())));
        Ok(Self(Arc::new(fake)))
    }
    pub fn operator(&self) -> Arc<dyn Operator> {
        self.0.clone()
    }
    pub async fn left(&self) {
        std::future::pending().await
    }
    pub async fn shutdown(self) {}
}
