//! `sluice explain`: a configuration in its long form; the limits; the reasons; the operators.

use std::process::ExitCode;

use serde_json::json;
use sluice_config::{explain, render};
use sluice_core::limits::{TABLE, Unit};
use sluice_core::value::show_size;

use super::{check, print};
use crate::Extensions;
use crate::cli::{EXIT_CONFIG, Explain, Format};

pub(crate) fn run(options: &Explain, extensions: &Extensions) -> anyhow::Result<ExitCode> {
    if options.limits {
        limits(options.format);
        return Ok(ExitCode::SUCCESS);
    }
    if options.reasons {
        reasons(options.format);
        return Ok(ExitCode::SUCCESS);
    }
    if options.operators {
        operators(options.format);
        return Ok(ExitCode::SUCCESS);
    }
    let path = options.file.as_ref().or(options.config.as_ref());
    let loaded =
        check::read(path.ok_or_else(|| anyhow::anyhow!("no configuration given; name a file"))?);
    let Some((config, root)) = loaded.usable().zip(loaded.root.as_ref()) else {
        print(&render::brief(&loaded.diags.into_sorted(), &loaded.sources, false));
        return Ok(ExitCode::from(EXIT_CONFIG));
    };
    let config = &config.clone().completed();
    print(&match options.format {
        Format::Text if options.defaults => explain::yaml_with_defaults(config, root, extensions),
        Format::Text => explain::yaml(config, root, extensions),
        Format::Json if options.defaults => {
            anyhow::bail!("`--defaults` marks values by comments, which JSON does not have")
        }
        Format::Json => {
            format!("{:#}\n", explain::config_json(config, root, extensions))
        }
    });
    Ok(ExitCode::SUCCESS)
}

fn limits(format: Format) {
    let show = |unit: Unit, value: u64| match unit {
        Unit::Bytes => show_size(value),
        Unit::Count => value.to_string(),
    };
    match format {
        Format::Json => {
            let rows = TABLE.iter().map(|row| {
                json!({ "name": row.name, "default": row.default, "min": row.min, "max": row.max, "help": row.help })
            });
            print(&format!("{:#}\n", serde_json::Value::from_iter(rows)));
        }
        Format::Text => {
            for row in TABLE {
                let (default, min, max) =
                    (show(row.unit, row.default), show(row.unit, row.min), show(row.unit, row.max));
                print(&format!("{:<22} {default:>8}  ({min} to {max})  {}\n", row.name, row.help));
            }
        }
    }
}

fn operators(format: Format) {
    let all = sluice_model::process::operators_of();
    match format {
        Format::Json => {
            let rows = all.map(|(operator, of)| {
                json!({ "name": operator.name, "argument": operator.argument, "of": of, "help": operator.help })
            });
            print(&format!("{:#}\n", serde_json::Value::from_iter(rows)));
        }
        Format::Text => {
            for (operator, of) in all {
                print(&format!("{:<44} {of:<20} {}\n", operator.written(), operator.help));
            }
        }
    }
}

fn reasons(format: Format) {
    let all = sluice_l7::reasons::all().map(sluice_core::Reason::def);
    match format {
        Format::Json => {
            let rows = all.map(|def| {
                json!({
                    "code": def.code,
                    "phase": def.phase.word(),
                    "side": def.side.word(),
                    "envoy_flag": def.envoy_flag,
                    "help": def.help,
                })
            });
            print(&format!("{:#}\n", serde_json::Value::from_iter(rows)));
        }
        Format::Text => {
            for def in all {
                print(&format!("{:<26} {:<10} {}\n", def.code, def.side.word(), def.help));
            }
        }
    }
}
