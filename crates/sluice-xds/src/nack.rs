//! What a plane is told about resources that were not accepted.
//!
//! Owns: the text. Refuses to know: why a resource is wrong. Keeps: the text names each resource, the field and what to
//! do, and its length is bounded, since planes write it into their logs.

/// Most resources that the text names.
const NAMED_MAX: usize = 16;

/// The longest text, in bytes.
const TEXT_MAX: usize = 8 * 1024;

/// A resource that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceFault {
    /// Its name; its place in the response if it has none.
    pub name: String,
    /// What is wrong with it: the path of the field, what was found, what to do.
    pub problem: String,
}

/// The text for these resources.
pub(crate) fn text(kind: crate::XdsType, faults: &[ResourceFault]) -> String {
    let mut text = String::new();
    for (number, fault) in faults.iter().enumerate() {
        if number == NAMED_MAX || text.len() > TEXT_MAX {
            text.push_str(&format!("\nand {} more", faults.len() - number));
            break;
        }
        if number > 0 {
            text.push('\n');
        }
        text.push_str(&format!("{kind} `{}`: {}", fault.name, fault.problem));
    }
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::XdsType;

    fn fault(name: &str, problem: &str) -> ResourceFault {
        ResourceFault { name: name.to_owned(), problem: problem.to_owned() }
    }

    #[test]
    fn the_text_names_each_resource_up_to_a_bound() {
        assert_eq!(
            text(XdsType::Cluster, &[fault("a", "x: wrong"), fault("b", "y: bad")]),
            "cluster `a`: x: wrong\ncluster `b`: y: bad"
        );
        let many: Vec<_> = (0..40).map(|number| fault(&number.to_string(), "wrong")).collect();
        let shown = text(XdsType::Routes, &many);
        assert!(shown.contains("routes `15`: wrong") && !shown.contains("`16`"), "{shown}");
        assert!(shown.ends_with("and 24 more"));
        let long = text(XdsType::Routes, &[fault("a", &"ä".repeat(TEXT_MAX))]);
        assert!(long.len() < TEXT_MAX + 8 && long.ends_with(" ..."));
    }
}
