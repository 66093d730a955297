//! The servers behind the proxies.

use std::{fs, net::SocketAddr, path::Path};

use super::{
    client,
    load::BackendGroup,
    process::PinnedProcess,
    proxy::BODY,
    template::{BACKENDS, Template, Words},
    uploads,
};
use outrigger_net::reserve_addr;

use crate::{Error, error::doing};

const TEMPLATE: Template =
    Template { name: "backends.conf", text: include_str!("../../peers/backends.conf") };

/// Both groups of servers, on one core; nginx ends with this value, the threads of the uploads with the bench.
#[derive(Debug)]
pub(super) struct Backends {
    answers: Vec<SocketAddr>,
    uploads: Vec<SocketAddr>,
    nginx: PinnedProcess,
}

impl Backends {
    /// Starts them; nginx may need some time until it answers.
    pub(super) fn start(nginx: &Path, dir: &Path, core: usize) -> Result<Self, Error> {
        let answers: Vec<SocketAddr> = (0..BACKENDS).map(|_| reserve_addr()).collect();
        let files = dir.join("files");
        fs::create_dir_all(&files).map_err(doing(format!("make {}", files.display())))?;
        for (name, size) in [("16k", 16 << 10), ("1m", 1 << 20)] {
            fs::write(files.join(name), vec![b'x'; size]).map_err(doing(format!("write the file {name}")))?;
        }
        TEMPLATE.write(dir, &Words::new(dir, &answers).with("BODY", "x".repeat(BODY)))?;
        let line =
            [nginx.as_os_str(), "-c".as_ref(), dir.join(TEMPLATE.name).as_os_str()].map(ToOwned::to_owned);
        let nginx = PinnedProcess::start("backends", dir, core, line)?;
        Ok(Self { answers, uploads: uploads::start(BACKENDS, core)?, nginx })
    }

    pub(super) fn group(&self, group: BackendGroup) -> &[SocketAddr] {
        match group {
            BackendGroup::Answers => &self.answers,
            BackendGroup::Uploads => &self.uploads,
        }
    }

    /// Waits until every address answers.
    pub(super) async fn until_ready(&mut self) -> Result<(), Error> {
        for addr in self.answers.iter().chain(&self.uploads) {
            client::until_it_answers(&mut self.nginx, *addr).await?;
        }
        Ok(())
    }

    /// The nginx process; its processor time does not count as the bench's own.
    pub(super) fn pid(&self) -> u32 {
        self.nginx.pid()
    }
}
