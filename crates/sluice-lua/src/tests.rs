//! What hostile scripts can do, and what they cannot. They do it while they are loaded, under the same bounds as a request.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::failure::FailureKind;
use crate::kind::ScriptKind;
use crate::limits::ScriptLimits;
use crate::state::LuaState;

/// No bound on time: what the tests hold does not depend on the machine.
fn limits() -> ScriptLimits {
    ScriptLimits { cpu: Duration::from_secs(3600), ..ScriptLimits::default() }
}

/// Loads a script that is `code`.
fn load(code: &str) -> Result<(), (FailureKind, String)> {
    load_within(code, limits())
}

fn load_within(code: &str, limits: ScriptLimits) -> Result<(), (FailureKind, String)> {
    let text = format!("{code}\nfunction envoy_on_request() end");
    let loaded = LuaState::load(ScriptKind::Requests, "a.lua", text.as_bytes(), limits);
    loaded.map(drop).map_err(|failure| (failure.kind, failure.message))
}

#[track_caller]
fn fails(code: &str, kind: FailureKind, with: &str) {
    let (of, message) = load(code).expect_err(code);
    assert_eq!(of, kind, "{code}: {message}");
    assert!(message.contains(with), "{code}: {message}");
}

#[track_caller]
fn passes(code: &str) {
    assert_eq!(load(code), Ok(()), "{code}");
}

#[test]
fn what_never_ends_is_ended() {
    for code in [
        "while true do end",
        "local function f() return f() end f()",
        "repeat until pcall(error)",
        "while true do pcall(function() while true do end end) end",
        "local function f() while true do pcall(f) end end f()",
        "local function g() while true do pcall(g) end end local function f(n) if n > 0 then f(n - 1) end while true do pcall(g) end end while true do pcall(f, 9000) end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "while true do pcall(coroutine.wrap(function() while true do end end)) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "local w = coroutine.wrap(function() while true do coroutine.yield() end end) while true do w() end",
        "error(setmetatable({}, { __tostring = function() while true do end end }))\nwhile true do end",
        "local t = setmetatable({}, { __index = function(t, k) return t[k + 1] end }) while true do pcall(function() return t[1] end) end",
        "for i = 1, 1e15 do end",
        "table.sort({ 1, 2, 3 }, function() while true do end end)",
        "string.gsub('abc', '.', function() while true do end end)",
        "load(function() while true do end end)",
        "setmetatable({}, { __gc = function() while true do end end }) while true do local t = {} end",
        "while true do ('x'):rep(1e6) end",
        "string.find(('a'):rep(4096), ('.-'):rep(30) .. 'b') while true do end",
    ] {
        // Some run out of instructions and some, whose errors are costly, of processor time.
        let limits = ScriptLimits { cpu: Duration::from_secs(1), ..limits() };
        let (kind, message) = load_within(code, limits).expect_err(code);
        assert_eq!(kind, FailureKind::Budget, "{code}: {message}");
        assert!(message.starts_with("a.lua:"), "{code}: {message}");
    }
}

#[test]
fn work_within_one_function_counts() {
    for code in [
        "local s = ('a'):rep(4096) for i = 1, 5 do pcall(string.find, s, ('.-'):rep(30) .. 'b') end",
        "local s = ('a'):rep(4096) pcall(string.gsub, s, ('.-'):rep(30) .. 'b', '') local x = 1",
        "local s = ('a'):rep(4096) for _ in s:gmatch(('.-'):rep(30) .. 'b') do end local x = 1",
        "local s = ('x'):rep(1e6) for i = 1, 100 do s:upper() end",
        "local s = ('x'):rep(1e6) for i = 1, 100 do s:reverse() end",
        "local t = {} for i = 1, 50000 do t[i] = i end for i = 1, 1000 do table.insert(t, 1, i) end",
        "local t = {} for i = 1, 50000 do t[i] = i end for i = 1, 10 do table.sort(t) end",
        "local s = ('x = 1 '):rep(10000) for i = 1, 100 do load(s) end",
    ] {
        fails(code, FailureKind::Budget, "a.lua:1");
    }
}

#[test]
fn the_record_says_where_a_budget_ran_out() {
    let (kind, message) = load("local n = 0\nwhile true do\nn = n + 1 end").unwrap_err();
    assert_eq!(kind, FailureKind::Budget);
    let said = "it used 1000000 instructions when it was loaded";
    assert!(
        message == format!("a.lua:3: {said}") || message == format!("a.lua:2: {said}"),
        "{message}"
    );
}

#[test]
fn processor_time_is_bounded_as_well() {
    let limits =
        ScriptLimits { instructions: u64::MAX / 2, cpu: Duration::from_millis(20), ..limits() };
    let failure =
        LuaState::load(ScriptKind::Requests, "a.lua", b"while true do end", limits).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Budget);
    assert!(failure.message.contains("20 ms of processor time"), "{failure:?}");
}

#[test]
fn memory_is_bounded() {
    for code in [
        "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end",
        "local s = 'x' while true do s = s .. s end",
        "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end",
        "local t = {} while true do t[#t + 1] = function() return t end end",
        "local function f(...) return f(1, ...) end f()",
        "local function f() while true do coroutine.resume(coroutine.create(f)) end end f()",
    ] {
        let (kind, message) = load(code).unwrap_err();
        let plain = ["stack overflow", "too many"].iter().any(|what| message.contains(what));
        assert!(plain || kind != FailureKind::Error, "{code}: {message}");
    }
    fails("local s = 'x' while true do s = s .. s end", FailureKind::Memory, "not enough memory");
    fails(
        "string.rep('x', 1e10)",
        FailureKind::Error,
        "a.lua:1: string.rep: the result would have",
    );
    fails("string.rep('', 10) string.rep('x', 1e7)", FailureKind::Error, "more than 4194304 bytes");
    fails(
        "('x'):rep(4e6):gsub('x', 'yyyyyyyyyy')",
        FailureKind::Error,
        "gsub: the result would have",
    );
    // What is not kept is collected in time.
    passes("for i = 1, 100 do local s = ('x'):rep(2e5 + i) end");
    passes("local s = ('x'):rep(1e6) for i = 1, 50 do local u = s .. i end");
}

#[test]
fn errors_do_not_take_memory_outside_of_lua() {
    // Each is a text within the memory of the state, which is collected.
    passes(
        "for i = 1, 1000 do local ok, e = pcall(string.rep, 'x', 1e10) assert(type(e) == 'string', e) end",
    );
    passes(
        "local ok, e = pcall(string.find, 'a', '[') assert(type(e) == 'string' and e:find('malformed'), e)",
    );
    passes(
        "local ok, e = pcall(('x').match) assert(type(e) == 'string' and e:find('bad argument #1'), e)",
    );
}

#[test]
fn recursion_ends_in_an_error() {
    fails("local function f(n) return 1 + f(n + 1) end f(1)", FailureKind::Error, "stack overflow");
    passes("local function f(n) return pcall(f, n + 1) end f(1)");
    fails("loadstring(('('):rep(1e5))()", FailureKind::Error, "a.lua:1");
    passes(
        "local t = setmetatable({}, {}) getmetatable(t).__index = t assert(not pcall(function() return t.x end))",
    );
}

#[test]
fn the_sandbox_has_no_way_out() {
    for (code, with) in [
        ("os.exit(1)", "the library `os` is not available to scripts"),
        ("io.open('/etc/passwd')", "the library `io` is not available"),
        ("debug.getregistry()", "the library `debug` is not available"),
        ("require('ffi')", "require() is not available"),
        ("ffi.cdef('int x;')", "the library `ffi` is not available"),
        ("jit.on()", "the library `jit` is not available"),
        ("package.loaded.os = 1", "the library `package` is not available"),
        ("dofile('/etc/passwd')", "dofile() is not available"),
        ("loadfile('/etc/passwd')", "loadfile() is not available"),
        ("string.dump(function() end)", "string.dump() is not available"),
        ("getfenv(0)", "getfenv() is not available"),
        ("setfenv(1, {})", "setfenv() is not available"),
        ("collectgarbage('stop')", "collectgarbage() is not available"),
        ("newproxy(true)", "newproxy() is not available"),
        ("print(1)", "use logInfo() of the handle"),
        ("os = nil os.exit(1)", "a.lua:1"),
        ("setmetatable(getmetatable(''), {})", "a.lua:1"),
        ("getmetatable('').__index = nil", "a.lua:1"),
        ("error('mine')", "a.lua:1: mine"),
        ("error({})", "a.lua"),
    ] {
        let failed = load(code).map_err(|(_, message)| message);
        let message = failed.expect_err(code);
        assert!(message.contains(with) || code == "error({})", "{code}: {message}");
    }
    passes(
        "local f, why = load('\\27LJ\\2') assert(f == nil and why == 'bytecode cannot be loaded', why)",
    );
    passes(
        "local done local f, why = load(function() if not done then done = true return '\\27LJ' end end) assert(f == nil and why == 'bytecode cannot be loaded', why)",
    );
    passes(
        "assert(load('return 1 + 1')() == 2) assert(load('return x', 'n', 't', { x = 3 })() == 3)",
    );
    passes("assert(select('#', load('return')) == 1) assert(not load('?'))");
}

#[test]
fn the_wrapped_library_works_as_luas() {
    passes("assert(('abc'):rep(2, '-') == 'abc-abc') assert(('x'):rep(0) == '')");
    passes(
        "local a, b, c = ('key=value'):match('(%w+)=(%w+)') assert(a == 'key' and b == 'value' and c == nil)",
    );
    passes("local s, e, c = ('hello'):find('l(l)') assert(s == 3 and e == 4 and c == 'l')");
    passes(
        "assert(('a.b'):find('.', 1, true) == 2) assert(('abc'):find('b', -2) == 2) assert(not ('abc'):find('a', 5))",
    );
    passes("local r, n = ('hello world'):gsub('o', '0', 1) assert(r == 'hell0 world' and n == 1)");
    passes(
        "assert(('abc'):gsub('%w', '%0%0') == 'aabbcc') assert(('abc'):gsub('', '-') == '-a-b-c-')",
    );
    passes("assert(('hello'):gsub('l+', function(m) return '<' .. m .. '>' end) == 'he<ll>o')");
    passes(
        "assert(('$x $y'):gsub('%$(%w)', { x = 1 }) == '1 $y') assert(('abc'):gsub('^a', 'x') == 'xbc')",
    );
    passes("assert(('abc'):gsub('b*', function() return '-' end) == ('abc'):gsub('b*', '-'))");
    passes("assert(('aaa'):gsub('^a', function() return 'b' end) == 'baa')");
    passes(
        "local t = {} for k, v in ('a=1, b=2'):gmatch('(%w)=(%w)') do t[k] = v end assert(t.a == '1' and t.b == '2')",
    );
    passes("local n = 0 for w in ('one two'):gmatch('%a+') do n = n + #w end assert(n == 6)");
    passes("local n = 0 for w in ('ab'):gmatch('') do n = n + 1 end assert(n == 3)");
    passes("local t = { 3, 1, 2 } table.sort(t) assert(table.concat(t, ',') == '1,2,3')");
    passes(
        "local t = { 1, 3 } table.insert(t, 2, 2) table.insert(t, 4) assert(table.concat(t) == '1234')",
    );
    passes(
        "local ok, e = xpcall(function() error('x', 0) end, function(e) return e .. '!' end) assert(not ok and e == 'x!')",
    );
    passes("assert(string.format('%5.1f|%s|%q', 1.25, 'a', 'b') == '  1.2|a|\"b\"')");
    passes(
        "local co = coroutine.wrap(function() coroutine.yield(1) return 2 end) assert(co() == 1 and co() == 2)",
    );
    passes("assert(bit.band(6, 3) == 2) assert(math.floor(1.5) == 1)");
}

#[test]
fn a_script_defines_a_function() {
    let message = |code: &str| {
        LuaState::load(ScriptKind::Requests, "a.lua", code.as_bytes(), limits())
            .unwrap_err()
            .message
    };
    let neither = "it defines neither envoy_on_request nor envoy_on_response as a function";
    assert_eq!(message("x = 1"), neither);
    assert_eq!(message("envoy_on_request = 1"), neither);
    assert_eq!(
        message("\nfunction envoy_on_request("),
        "a.lua:2: <name> or '...' expected near '<eof>'"
    );
    assert_eq!(message("\x1bLJ\x02"), "attempt to load a binary chunk (mode is 't')");
    assert!(message("x.y = 1").starts_with("a.lua:1: attempt to index global 'x'"));
}

/// The methods that the interface of a kind of scripts defines, apart from those that only ask for a fact.
fn methods(kind: ScriptKind) -> Vec<&'static str> {
    let lines = kind.interface().lines();
    let defined = lines.filter_map(|line| line.trim().strip_prefix("function "));
    let named = defined.filter_map(|rest| rest.split_once(':')).map(|(_, rest)| rest);
    named
        .filter_map(|rest| Some(rest.split_once('(')?.0))
        .filter(|name| *name != "__pairs")
        .collect()
}

#[test]
fn whatever_is_called_with_anything_is_at_most_an_error() {
    for (kind, calls) in [
        (ScriptKind::Requests, crate::hostile::HANDLE),
        (ScriptKind::Connections, crate::hostile::CONNECTION),
    ] {
        for method in methods(kind) {
            assert!(calls.iter().any(|(name, _)| *name == method), "{method} is not called");
        }
    }
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    let (first, count) = seed.map_or((0, 100), |seed| (seed, 1));
    let mut succeeded = std::collections::BTreeSet::new();
    for seed in first..first + count {
        eprintln!("SLUICE_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let program: Vec<u8> = (0..random.usize(..600)).map(|_| random.u8(..)).collect();
        succeeded.extend(crate::hostile::run(&program));
    }
    let calls = crate::hostile::HANDLE.iter().chain(crate::hostile::CONNECTION);
    for (name, _) in calls.filter(|_| seed.is_none()) {
        assert!(succeeded.contains(*name), "{name} never succeeds: {succeeded:?}");
    }
}
