//! The socket of the admin pages, and how they are served on it.
//!
//! Owns: how it is bound, what is checked of requests. Refuses to know: pages. Keeps: only on a unix socket, which browsers
//! cannot reach, may a request name any host.

use std::time::Duration;

use anyhow::Context as _;
use sluice_admin::{AdminPlan, AdminSocket};
use sluice_core::limits::Limit;
use sluice_core::{Limits, ListenAddress};
use sluice_model::sections::Admin;
use sluice_sys::listen::StagedFile;

use super::{ConfigForm, sockets};

pub(super) fn admin_plan(admin: &Admin, limits: &Limits, form: &ConfigForm) -> AdminPlan {
    AdminPlan {
        connections: limits.size(Limit::AdminConnections),
        hosts: admin.hosts.iter().map(|host| host.value.clone()).collect(),
        // Browsers cannot reach a unix socket, and its clients send any host name.
        any_host: matches!(admin.address.value, ListenAddress::Unix(_)),
        answer_timeout: Duration::from_secs(limits.get(Limit::AdminAnswer)),
        // Programs that drive Envoy send neither a header nor a content type.
        guard_changes: form.stand_in_public().is_empty(),
        stand_in_public: form.stand_in_public(),
    }
}

/// The socket of the admin pages.
pub(super) struct AdminBound {
    pub(super) socket: AdminSocket,
    /// Its file, if that is not yet in place.
    pub(super) staged: Option<StagedFile>,
    /// Where it is bound.
    pub(super) address: String,
}

pub(super) fn admin_socket(admin: &Admin, takeover: bool) -> anyhow::Result<AdminBound> {
    let address = &admin.address.value;
    let context = || format!("cannot listen on the admin address {address}");
    if !takeover {
        sockets::check_free(address).with_context(context)?;
    }
    match address {
        ListenAddress::Tcp(socket) => {
            let options = sluice_sys::listen::TcpOptions {
                backlog: 64,
                keepalive: true,
                fast_open: 0,
                freebind: false,
            };
            let fd = sluice_sys::listen::tcp(*socket, 1, options).with_context(context)?.remove(0);
            let tcp = tokio::net::TcpListener::from_std(fd.into()).with_context(context)?;
            let address = tcp.local_addr()?.to_string();
            Ok(AdminBound { socket: AdminSocket::Tcp(tcp), staged: None, address })
        }
        ListenAddress::Unix(path) => {
            let (mut sockets, file) =
                sluice_sys::listen::unix(path, 1, 64, takeover).with_context(context)?;
            if let Some(mode) = &admin.mode {
                file.set_mode(mode.value.0).with_context(context)?;
            }
            let fd = sockets.remove(0);
            let unix = tokio::net::UnixListener::from_std(fd.into()).with_context(context)?;
            let (staged, address) = (Some(file), address.to_string());
            Ok(AdminBound { socket: AdminSocket::Unix(unix), staged, address })
        }
        ListenAddress::Udp(_) => {
            anyhow::bail!("the admin address must be a TCP address or a unix socket")
        }
    }
}
