//! The filter of bytes from the page on extending, in a program of its own that runs.
//!
//! [`run`] is the program, [`test`] the test of it.

use std::io::{Read as _, Write as _};
use std::process::{Command, ExitCode};

use sluice_testkit::Sluice;
use sluice_testkit::peers::{Server, connect, read_to_end};

use crate::binary;

#[allow(unreachable_pub, missing_docs, reason = "it is what stands on the page")]
mod rewrite {
    include!("extending/rewrite.in");
}

pub(crate) fn run() -> ExitCode {
    rewrite::main()
}

pub(crate) fn test() {
    let page = include_str!("../../../../docs/extending.md");
    let shown = include_str!("extending/rewrite.in").replace("pub fn main()", "fn main()");
    assert!(page.contains(&shown), "docs/extending.md shows another");
    assert!(shown.lines().count() <= 60);
    a_text_is_replaced_however_it_is_cut();
    bytes_of_http_do_not_pass_it();
}

fn yaml(handler: &str, server: &Server) -> String {
    format!(
        "listeners: [{{ name: door, address: 127.0.0.1:0, {handler}, filters: [{{ rewrite: {{ find: secret, with: \"***\" }} }}] }}]\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n",
        server.addr()
    )
}

fn a_text_is_replaced_however_it_is_cut() {
    let echo = Server::echo();
    let kit = Sluice::with_binary(binary(module_path!())).workers(1);
    let sluice = kit.start(&yaml("relay: up", &echo));
    let mut client = connect(sluice.addr("door"));
    // What cannot be the beginning of the text does not wait.
    client.write_all(b"open s").unwrap();
    let mut got = [0; 16];
    client.read_exact(&mut got[..5]).unwrap();
    client.write_all(b"ec").unwrap();
    client.write_all(b"ret, secrets, se").unwrap();
    client.read_exact(&mut got[5..]).unwrap();
    assert_eq!(&got, b"open ***, ***s, ");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client).1, b"se");
    let record = sluice.record_of("end.done");
    assert_eq!(record["bytes_sent"], 24, "what the server sent is counted");
}

fn bytes_of_http_do_not_pass_it() {
    let echo = Server::echo();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("rewrite.yaml");
    let text = yaml("http: main", &echo);
    std::fs::write(&file, format!("{text}routes: {{ main: {{ cluster: up }} }}\n")).unwrap();
    let check = Command::new(binary(module_path!())).arg("check").arg(&file).output();
    let output = check.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("the filter `rewrite` is about bytes, which only a relay moves"),
        "{said}"
    );
}
