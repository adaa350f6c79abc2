//! A web application firewall as a loaded library: the example with libmodsecurity and the OWASP Core Rule Set.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use sluice_testkit::libraries::{compile_with, example};
use sluice_testkit::origin::{Client, Message};
use sluice_testkit::{Origin, Running, Sluice, tools};

const RULES: &str = "SecRuleEngine On\n\
                     SecRequestBodyAccess On\n\
                     SecAuditEngine Off\n\
                     Include /etc/modsecurity/crs/crs-setup.conf\n\
                     Include /usr/share/modsecurity-crs/rules/REQUEST-9*.conf\n";

fn ask(sluice: &Running, request: &str, body: &str) -> Message {
    let fields = "Host: shop.test\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\n";
    let length = match body.len() {
        0 => String::new(),
        length => format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n"
        ),
    };
    let text = format!("{request} HTTP/1.1\r\n{fields}{length}\r\n{body}");
    Client::connect(sluice.addr("web")).ask(&text)
}

#[test]
fn the_firewall_refuses_an_injection_and_passes_the_rest() {
    let needed = ["/usr/include/modsecurity/transaction.h", "/usr/share/modsecurity-crs/rules"];
    if !tools::have_files(&needed) {
        return;
    }
    let kit = Sluice::new().workers(1).expect_warning("reload failed");
    if compile_with(&example("waf.cpp"), kit.folder(), &["-lmodsecurity"]).is_none() {
        return;
    }
    let (rules, origin) = (kit.folder().join("waf.conf"), Origin::start("o"));
    std::fs::write(&rules, RULES).unwrap();
    let yaml = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, http: {{ routes: main, filters: [{{ module: {{ library: libwaf.so, config: {} }} }}] }} }}]\n\
         routes: {{ main: [{{ rules: [{{ name: all, cluster: up }}] }}] }}\n\
         clusters: {{ up: {{ endpoints: [\"{}\"] }} }}\n\
         access_log: [{{ sink: records.json, format: {{ json: {{ listener: \"%LISTENER%\", reason: \"%REASON%\", path: \"%PATH%\", why: \"%RESPONSE_CODE_DETAILS%\" }} }} }}]\n",
        rules.display(),
        origin.addr()
    );
    let sluice = kit.start(&yaml);
    assert_eq!(ask(&sluice, "GET /shop?item=blue+shoes&page=2", "").status(), 200);
    assert_eq!(ask(&sluice, "POST /order", "name=Ann+Miller&city=Oslo").status(), 200);
    assert_eq!(origin.requests()[1].text(), "name=Ann+Miller&city=Oslo");
    // In the query, and in a body.
    let injection =
        "id=1%27%20OR%20%271%27=%271%27%20UNION%20SELECT%20password%20FROM%20users--%20-";
    assert_eq!(ask(&sluice, &format!("GET /shop?{injection}"), "").status(), 403);
    let refused = ask(&sluice, "POST /order", injection);
    assert_eq!((refused.status(), refused.text().as_str()), (403, "the request was refused\n"));
    assert_eq!(ask(&sluice, "GET /shop?q=%3Cscript%3Ealert(1)%3C/script%3E", "").status(), 403);
    assert_eq!(origin.requests().len(), 2);
    let record = sluice.record("/order", |record| {
        record["path"] == "/order"
            && record["why"].as_str().unwrap_or_default().starts_with("module_response[waf: ")
    });
    assert!(record["why"].as_str().unwrap().contains("ModSecurity"), "{record}");
    let counted = "filter=\"waf\",counter=\"blocked\"";
    assert_eq!(sluice.metric("sluice_module_counts_total", counted), 3);
    // Rules that cannot be read are refused.
    std::fs::write(sluice.folder().join("other.conf"), "SecRuleEngine Perhaps\n").unwrap();
    assert_eq!(sluice.reload(&yaml.replace("waf.conf", "other.conf")), "failed");
    let failure = sluice.items("/config")[0]["last_failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("waf 1.0 refuses this configuration"), "{failure}");
}
