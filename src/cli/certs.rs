//! `portolan certs`: the certificates that are shown, and those that the store keeps.

use std::fs;
use std::path::Path;

use portolan_discovery::model::{CHAIN_PEM_BYTES_MAX, CertificateName, KEY_PEM_BYTES_MAX};

use super::Failure;
use super::args::CertsCommand;
use super::ask::list;
use super::client::Client;
use super::table::{self, say};
use crate::api::view::{DoneView, WaitView};
use crate::api::{CertificateCall, CertificateView};

pub(super) async fn run(
    client: &Client,
    json: bool,
    command: Option<CertsCommand>,
) -> Result<(), Failure> {
    match command {
        None => certs(client, json).await,
        Some(CertsCommand::Add { name, chain, key }) => {
            add(client, json, &name, &chain, &key).await
        }
        Some(CertsCommand::Remove { name }) => remove(client, json, &name).await,
    }
}

async fn certs(client: &Client, json: bool) -> Result<(), Failure> {
    let head = ["CERTIFICATE", "SOURCE", "HOSTS", "DAYS", "LISTENERS"];
    list(client, json, "/v1/certificates", head, |view: &CertificateView| {
        let listeners = view.listeners.iter().map(|listener| {
            let is_default = view.default_of.contains(listener);
            format!("{listener}{}", if is_default { " (default)" } else { "" })
        });
        let source = match view.hides_stored {
            true => format!("{} (hides the store's)", view.source),
            false => view.source.clone(),
        };
        let listeners: Vec<_> = listeners.collect();
        [
            view.name.clone(),
            source,
            view.hosts.join(" "),
            days(view.days_left),
            listeners.join(", "),
        ]
    })
    .await?;
    Ok(())
}

fn days(left: i64) -> String {
    match left {
        days @ ..0 => format!("expired {} days ago", -days),
        days => days.to_string(),
    }
}

async fn add(
    client: &Client,
    json: bool,
    name: &CertificateName,
    chain: &Path,
    key: &Path,
) -> Result<(), Failure> {
    let call = CertificateCall {
        chain: text(chain, CHAIN_PEM_BYTES_MAX)?,
        key: text(key, KEY_PEM_BYTES_MAX)?,
    };
    let path = format!("/v1/certificates/{name}");
    if client.is_far() {
        eprintln!("portolan: the key goes to another machine in clear text");
    }
    let done: DoneView = client.put(&path, &call).await?;
    let _: WaitView = client.get(&format!("/v1/wait?revision={}", done.revision)).await?;
    for warning in &done.warnings {
        eprintln!("portolan: {warning}");
    }
    if json {
        table::json(&done);
        return Ok(());
    }
    let view: CertificateView = client.get(&path).await?;
    say!("{name} is shown for {}, {} days", view.hosts.join(" "), days(view.days_left));
    Ok(())
}

async fn remove(client: &Client, json: bool, name: &CertificateName) -> Result<(), Failure> {
    let done: DoneView = client.delete(&format!("/v1/certificates/{name}")).await?;
    let _: WaitView = client.get(&format!("/v1/wait?revision={}", done.revision)).await?;
    match json {
        true => table::json(&done),
        false => say!("{name} is gone from the store"),
    }
    Ok(())
}

/// A file of PEM. A larger one is none, and is not sent.
fn text(path: &Path, bytes_max: usize) -> Result<String, Failure> {
    let shown = path.display();
    let length = fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?.len();
    if length > bytes_max as u64 {
        return Err(format!("{shown} has {length} bytes, more than {bytes_max}").into());
    }
    fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}").into())
}
