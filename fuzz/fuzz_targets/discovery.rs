//! Responses of control planes: none panics, each is answered once, and what is read of a resource can be mapped.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use sluice_core::{Diags, Moment};
use sluice_envoy::delivered::DeliveredSecrets;
use sluice_envoy::map::{PlaneNames, UnitSurroundings, unit};
use sluice_envoy::parts::GivenParts;
use sluice_envoy::{descriptors, parts, wire};
use sluice_xds::{DiscoveryForm, StreamMachine, WantedNames, XdsMessage, XdsType};

fuzz_target!(|bytes: &[u8]| {
    let [form, rest @ ..] = bytes else { return };
    let form = if form & 1 == 0 { DiscoveryForm::Sotw } else { DiscoveryForm::Delta };
    let mut machine = StreamMachine::new(form, Bytes::new(), true);
    for kind in XdsType::ALL {
        machine.want(kind, WantedNames::All);
    }
    machine.opened();
    while machine.poll_request().is_some() {}
    let message = match form {
        DiscoveryForm::Sotw => sluice_xds::messages::DiscoveryResponse::decode(rest).map(XdsMessage::Sotw),
        DiscoveryForm::Delta => {
            sluice_xds::messages::DeltaDiscoveryResponse::decode(rest).map(XdsMessage::Delta)
        }
    };
    let Ok(message) = message else { return };
    let Some(response) = machine.receive(message, Moment::from_micros(0)) else { return };
    let name = descriptors::name_of(response.kind.url()).expect("a URL");
    for resource in &response.resources {
        let mut diags = Diags::new();
        let Some(message) = wire::decode(name, &resource.body, 1, &mut diags) else {
            assert!(diags.has_errors(), "nothing is dropped without a word");
            continue;
        };
        if XdsType::PARTS.contains(&response.kind) {
            continue;
        }
        let whole = parts::whole(&message, &GivenParts::default(), &mut diags);
        let secrets = DeliveredSecrets::default();
        let around = UnitSurroundings { resources: None, node: None, secrets: &secrets };
        unit(&whole, &around, &mut PlaneNames::default(), &mut diags);
    }
    machine.answer(response.kind, &response.faults);
    assert!(machine.poll_request().is_some() && machine.poll_request().is_none());
});
