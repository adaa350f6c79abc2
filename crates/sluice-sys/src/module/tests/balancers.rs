//! What a balancer of a library may pass that it should not.

use super::super::balancer::{self, BalancerCall, EndpointFact, EndpointNumber};
use super::*;
use sluice_abi::AbiBalancer;

/// Two endpoints.
#[derive(Debug)]
struct FakeEndpoints;

impl BalancerCall for FakeEndpoints {
    fn fact(&mut self, index: usize, fact: EndpointFact) -> HostAnswer<Option<&[u8]>> {
        let known = fact == EndpointFact::Address;
        if index < 2 { Ok(known.then_some(b"a:1")) } else { Err(HostRefusal::Invalid) }
    }
    fn number(&mut self, _: usize, which: EndpointNumber) -> HostAnswer<u64> {
        if which == EndpointNumber::Weight { Ok(5) } else { Err(HostRefusal::Invalid) }
    }
    fn is_open(&mut self, index: usize) -> HostAnswer<bool> {
        Ok(index == 0)
    }
    fn hash(&mut self) -> HostAnswer<Option<u64>> {
        Ok(None)
    }
    fn random(&mut self, _: u64) -> HostAnswer<u64> {
        Err(HostRefusal::NotNow)
    }
}

#[test]
fn functions_of_balancers_check_what_they_are_passed() {
    let (mut text, mut number) = (AbiText::NONE, 0);
    let (place, number_place) = (&raw mut text, &raw mut number);
    let misaligned = number_place.cast::<u8>().wrapping_add(1).cast::<u64>();
    let fact = HOST_TABLE.endpoint_fact.unwrap();
    let kept = balancer::enter(&mut FakeEndpoints, |own| {
        for (index, which, place, expected) in [
            (0, 0, place, result::OK),
            (0, 1, place, result::NOT_FOUND),
            (2, 0, place, result::INVALID),
            (0, 9, place, result::INVALID),
            (0, 0, std::ptr::null_mut(), result::INVALID),
        ] {
            assert_eq!(unsafe { fact(own, index, which, place) }, expected, "{index} {which}");
        }
        let other = AbiBalancer { id: own.id + 1 };
        assert_eq!(unsafe { fact(other, 0, 0, place) }, result::STALE);
        let numbers = HOST_TABLE.endpoint_number.unwrap();
        assert_eq!(unsafe { numbers(own, 0, 0, misaligned) }, result::INVALID);
        assert_eq!(unsafe { numbers(own, 0, 9, number_place) }, result::INVALID);
        assert_eq!(unsafe { numbers(own, 0, 0, number_place) }, result::OK);
        let open = HOST_TABLE.endpoint_open.unwrap();
        assert_eq!(unsafe { open(own, 0) }, result::OK);
        assert_eq!(unsafe { open(own, 1) }, result::NOT_FOUND);
        let hash = HOST_TABLE.pick_hash.unwrap();
        assert_eq!(unsafe { hash(own, std::ptr::null_mut()) }, result::NOT_FOUND);
        let random = HOST_TABLE.pick_random.unwrap();
        assert_eq!(unsafe { random(own, 2, number_place) }, result::NOT_NOW);
        own
    });
    assert_eq!(number, 5);
    assert_eq!(unsafe { fact(kept, 0, 0, place) }, result::NOT_NOW);
}
