//! `sluice cert`: self-signed certificates for testing.
//!
//! Owns: how they are created and written, for the demo too. Refuses to know: configurations.
//! Keeps: an existing file is only replaced on request; only its owner can read a key.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use sluice_core::clock::ClockOrigin;
use sluice_core::value::parse_name_pattern;

use super::print;
use crate::cli::Cert;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn run(options: &Cert) -> anyhow::Result<ExitCode> {
    let own = options.names[0].trim_start_matches("*.");
    let base = options.out.clone().unwrap_or_else(|| own.into());
    let (cert, key) = (with_ending(&base, "pem"), with_ending(&base, "key"));
    let made = SelfSigned::new(&options.names, u32::from(options.days))?;
    made.write(&cert, &key, options.force)?;
    print(&format!(
        "{}: a self-signed certificate for {}, valid for {} days\n{}: its private key\n",
        cert.display(),
        options.names.join(", "),
        options.days,
        key.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `certs/a.test` and `pem` give `certs/a.test.pem`.
fn with_ending(base: &Path, ending: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    name.into()
}

/// A self-signed certificate and its key.
pub(super) struct SelfSigned {
    pub(super) cert: rcgen::Certificate,
    pub(super) key: KeyPair,
}

impl SelfSigned {
    /// Creates a certificate for these host names and IP addresses, for servers and clients.
    pub(super) fn new(names: &[String], days: u32) -> anyhow::Result<Self> {
        for name in names.iter().filter(|name| name.parse::<IpAddr>().is_err()) {
            parse_name_pattern(name).map_err(anyhow::Error::msg)?;
        }
        let key = KeyPair::generate().context("cannot create a key")?;
        let mut params = CertificateParams::new(names).context("cannot create a certificate")?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names[0].as_str());
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let clock = ClockOrigin::read().clock();
        let now = clock.wall(clock.now());
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        // The clock of another machine may be slow.
        params.not_before = epoch + now.saturating_sub(DAY);
        params.not_after = epoch + now + DAY * days;
        let cert = params.self_signed(&key).context("cannot sign the certificate")?;
        Ok(Self { cert, key })
    }

    /// Writes both as PEM files; creates the folder if it is missing.
    pub(super) fn write(&self, cert: &Path, key: &Path, replace: bool) -> anyhow::Result<()> {
        for path in [cert, key] {
            if !replace && path.symlink_metadata().is_ok() {
                bail!(
                    "{} exists; choose another --out, or replace it with --force",
                    path.display()
                );
            }
        }
        create(key, &self.key.serialize_pem(), 0o600, replace)?;
        create(cert, &self.cert.pem(), 0o644, replace)
    }
}

/// Creates a file; an existing one is only removed if `replace` is set.
fn create(path: &Path, text: &str, mode: u32, replace: bool) -> anyhow::Result<()> {
    let shown = path.display();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if replace {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {shown}"));
            }
            _ => {}
        }
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("cannot create {shown}"))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))
}
