//! `portolan cache`: what is done to the answers that the router keeps.

use super::Failure;
use super::args::CacheCommand;
use super::client::Client;
use super::table::{self, say};
use crate::api::{CacheClearCall, CacheClearView};

pub(super) async fn run(client: &Client, json: bool, command: CacheCommand) -> Result<(), Failure> {
    let CacheCommand::Clear { route, host, path } = command;
    let call = CacheClearCall { route, host, path };
    let view: CacheClearView = client.post("/v1/cache/clear", &call).await?;
    if json {
        table::json(&view);
    } else {
        say!("{} answers were cleared on {}, {} are left", view.cleared, view.node, view.left);
    }
    Ok(())
}
