//! `tidings ca`: thin glue over [`crate::net::certs`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::json;
use tidings_proto::Name;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::net::certs::{Authority, CA_CERT, CA_KEY, NODE_CERT, NODE_KEY, Validity, read_cert};
use crate::net::identity::CertInfo;

/// The cluster authority and the certificates it issues.
#[derive(Debug, Clone, Subcommand)]
pub enum CaCommand {
    /// Make a cluster authority: ca.pem and ca-key.pem. Existing files are never overwritten.
    Init {
        /// Directory of the authority; made if need be.
        #[arg(long, default_value = "tidings-ca")]
        dir: PathBuf,
        /// Name of the cluster: 1 to 63 of a-z 0-9 . _ -
        #[arg(long)]
        realm: String,
        /// Validity in days.
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Issue a node's certificate: node.pem, node-key.pem and a copy of ca.pem.
    Issue {
        /// Name of the node: 1 to 63 of a-z 0-9 . _ -
        node: String,
        /// Directory of the authority.
        #[arg(long, default_value = "tidings-ca")]
        dir: PathBuf,
        /// Directory the files go to [default: DIR/NODE]
        #[arg(long)]
        out: Option<PathBuf>,
        /// Validity in days; never beyond the authority's own end.
        #[arg(long, default_value_t = 365)]
        days: u32,
        /// A DNS name or IP address to include; may be repeated. Tidings itself compares only the node's name.
        #[arg(long = "host", value_name = "NAME_OR_IP")]
        hosts: Vec<String>,
    },
    /// Print what a certificate says.
    Show {
        /// The certificate, or a directory with one.
        #[arg(default_value = "tidings-ca")]
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Issue a node's certificate anew for the same node, hosts and key; the old file stays as node.pem.old.
    Renew {
        /// Directory with node.pem.
        out: PathBuf,
        /// Directory of the authority.
        #[arg(long, default_value = "tidings-ca")]
        dir: PathBuf,
        /// Validity in days [default: as long as the old one's]
        #[arg(long)]
        days: Option<u32>,
        /// Make a new private key too; the old one stays as node-key.pem.old.
        #[arg(long)]
        new_key: bool,
    },
}

/// Runs one `tidings ca` command and prints its outcome to standard output.
pub fn run(command: CaCommand) -> anyhow::Result<()> {
    match command {
        CaCommand::Init { dir, realm, days } => init(&dir, &realm, days),
        CaCommand::Issue { node, dir, out, days, hosts } => {
            let out = out.unwrap_or_else(|| dir.join(&node));
            issue(&dir, &out, &node, &hosts, days)
        }
        CaCommand::Show { file, json } => {
            print!("{}", show(&file, json)?);
            Ok(())
        }
        CaCommand::Renew { out, dir, days, new_key } => renew(&dir, &out, days, new_key),
    }
}

fn init(dir: &Path, realm: &str, days: u32) -> anyhow::Result<()> {
    let authority = Authority::create(realm, Validity::days(days)?)?;
    authority.save(dir)?;
    println!("authority of realm {realm}, valid until {}", date(authority.until()));
    println!("  {}  every node needs a copy", dir.join(CA_CERT).display());
    println!("  {}  keep it secret; only issuing needs it", dir.join(CA_KEY).display());
    println!("next: tidings ca issue NODE --dir {}", dir.display());
    Ok(())
}

fn issue(dir: &Path, out: &Path, node: &str, hosts: &[String], days: u32) -> anyhow::Result<()> {
    let authority = load(dir)?;
    let info = authority.issue_into(out, node, hosts, Validity::days(days)?)?;
    println!("node {node} of realm {}, valid until {}", info.realm, date(info.not_after));
    for file in [NODE_CERT, NODE_KEY, CA_CERT] {
        println!("  {}", out.join(file).display());
    }
    Ok(())
}

fn renew(dir: &Path, out: &Path, days: Option<u32>, new_key: bool) -> anyhow::Result<()> {
    let validity = days.map(Validity::days).transpose()?;
    let info = load(dir)?.renew(out, validity, new_key)?;
    let node = info.node.as_ref().map_or("-", Name::as_str);
    println!("node {node} of realm {}, valid until {}", info.realm, date(info.not_after));
    println!("  {}  (before: {NODE_CERT}.old)", out.join(NODE_CERT).display());
    Ok(())
}

fn load(dir: &Path) -> anyhow::Result<Authority> {
    if !dir.join(CA_CERT).exists() {
        bail!("no authority in {}; make one with `tidings ca init --dir {0} --realm NAME`", dir.display());
    }
    Authority::load(dir).context("cannot use the authority")
}

fn show(file: &Path, as_json: bool) -> anyhow::Result<String> {
    let info = read_cert(&certificate_in(file))?.1;
    let expired = info.not_after <= OffsetDateTime::now_utc();
    if as_json {
        let value = json!({
            "realm": info.realm.as_str(),
            "node": info.node.as_ref().map(Name::as_str),
            "authority": info.node.is_none(),
            "hosts": info.hosts,
            "not_before": date(info.not_before),
            "not_after": date(info.not_after),
            "expired": expired,
            "serial": info.serial,
            "sha256": info.fingerprint,
        });
        return Ok(format!("{value:#}\n"));
    }
    Ok(table(&info, expired))
}

fn table(info: &CertInfo, expired: bool) -> String {
    let node = info.node.as_ref().map_or("- (the authority)", Name::as_str);
    let note = if expired { "  EXPIRED" } else { "" };
    let mut text = format!("realm        {}\nnode         {node}\n", info.realm);
    if !info.hosts.is_empty() {
        text += &format!("hosts        {}\n", info.hosts.join(" "));
    }
    text += &format!("valid from   {}\n", date(info.not_before));
    text += &format!("valid until  {}{note}\n", date(info.not_after));
    text += &format!("serial       {}\nsha256       {}\n", info.serial, info.fingerprint);
    text
}

/// A directory stands for the node's certificate in it, else for the authority's.
fn certificate_in(path: &Path) -> PathBuf {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return path.to_owned();
    }
    let node = path.join(NODE_CERT);
    if node.exists() { node } else { path.join(CA_CERT) }
}

fn date(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: CaCommand,
    }

    fn tidings_ca(args: &[&str]) -> anyhow::Result<()> {
        run(Cli::try_parse_from([&["ca"], args].concat())?.command)
    }

    #[test]
    fn init_issue_show_renew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ca");
        let dir_arg = dir.to_str().unwrap();
        tidings_ca(&["init", "--dir", dir_arg, "--realm", "alpha"]).unwrap();
        tidings_ca(&["issue", "n1", "--dir", dir_arg, "--host", "n1.example", "--host", "10.1.2.3"]).unwrap();
        let node = dir.join("n1");
        let text = show(&node, false).unwrap();
        assert!(
            text.contains("realm        alpha\nnode         n1\nhosts        n1.example 10.1.2.3\n"),
            "{text}"
        );
        let json: serde_json::Value =
            serde_json::from_str(&show(&node.join(NODE_CERT), true).unwrap()).unwrap();
        assert_eq!((&json["node"], &json["expired"]), (&json!("n1"), &json!(false)));
        let json: serde_json::Value = serde_json::from_str(&show(&dir, true).unwrap()).unwrap();
        assert_eq!((&json["node"], &json["authority"]), (&json!(null), &json!(true)));
        tidings_ca(&["renew", node.to_str().unwrap(), "--dir", dir_arg, "--days", "30"]).unwrap();
        assert!(node.join("node.pem.old").exists());
    }

    #[test]
    fn a_missing_authority_says_how_to_make_one() {
        let root = tempfile::tempdir().unwrap();
        let error = tidings_ca(&["issue", "n1", "--dir", root.path().to_str().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("tidings ca init"), "{error}");
    }
}
