//! The metrics of scripts.

sluice_telemetry::metrics! {
    FAILURES = "sluice_lua_failures_total", Counter, ["listener", "reason"], "Runs of scripts of the filter `lua` that failed, by reason, whether the request failed with them or passed (`on_error`).";
    REPLACED = "sluice_lua_states_replaced_total", Counter, ["listener", "why"], "Lua states that were replaced: their script `changed`, or they were `out_of_memory`, or close to it (`nearly_full`), in which case no request failed.";
}
