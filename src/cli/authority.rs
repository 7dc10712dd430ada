//! The commands of the local authority.

use std::process::ExitCode;

use super::args::CaCommand;
use super::failed;
use super::table::say;
use crate::authority::{self, Issued, Purpose};
use crate::clock;

pub(super) fn run(command: CaCommand) -> ExitCode {
    let now_s = clock::unix_s();
    let made = match &command {
        CaCommand::Init { dir } => authority::init(dir, now_s),
        CaCommand::Issue { dir, names, days, client } => {
            let purpose = if *client { Purpose::Client } else { Purpose::Server };
            authority::issue(dir, names, purpose, now_s, *days)
        }
    };
    match made {
        Ok(Issued { chain, key }) => {
            say!("{}", chain.display());
            say!("{}", key.display());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}
