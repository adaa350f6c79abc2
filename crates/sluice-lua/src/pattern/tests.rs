#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use mlua::{Lua, MultiValue, Value};

use super::*;

/// What LuaJIT's own `string.find` returns, in our terms.
fn of_luajit(lua: &Lua, text: &[u8], pattern: &[u8]) -> Result<Option<PatternMatch>, ()> {
    let find: mlua::Function = lua.load("return string.find").eval().unwrap();
    let args = (lua.create_string(text).unwrap(), lua.create_string(pattern).unwrap());
    let found = find.call::<MultiValue>(args).map_err(drop)?.into_vec();
    let [start, end, captures @ ..] = &found[..] else { return Ok(None) };
    let number = |value: &Value| usize::try_from(value.as_i64().unwrap()).unwrap();
    let mut from = 0;
    let captures = captures.iter().map(|capture| match capture {
        // Only the text of a capture is known; any place with that text will do.
        Value::String(captured) => {
            from = captured.as_bytes().len();
            Capture::Text(0, from)
        }
        place => Capture::Place(number(place) - 1),
    });
    Ok(Some(PatternMatch {
        start: number(start) - 1,
        end: number(end),
        captures: captures.collect(),
    }))
}

/// Whether `string.find` takes it for a plain text.
fn is_plain(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"^$*+?.([%-".contains(byte))
}

/// Our result, with captures as long as they are, but without their places.
fn ours(text: &[u8], pattern: &[u8]) -> Result<Option<PatternMatch>, PatternError> {
    let anchored = pattern.first() == Some(&b'^');
    let mut matcher = Matcher::new(text, &pattern[usize::from(anchored)..], 1_000_000);
    let found = matcher.find(0, anchored)?;
    Ok(found.map(|mut found| {
        for capture in &mut found.captures {
            if let Capture::Text(from, to) = capture {
                (*from, *to) = (0, *to - *from);
            }
        }
        found
    }))
}

#[track_caller]
fn check(lua: &Lua, text: &[u8], pattern: &[u8]) {
    if is_plain(pattern) {
        return;
    }
    let named = (String::from_utf8_lossy(text), String::from_utf8_lossy(pattern));
    match ours(text, pattern) {
        Err(PatternError::OutOfSteps) => {}
        Err(error) => {
            assert!(of_luajit(lua, text, pattern).is_err(), "{named:?}: {error:?}");
        }
        Ok(found) => assert_eq!(Ok(found), of_luajit(lua, text, pattern), "{named:?}"),
    }
}

#[test]
fn patterns_match_as_luajits_own() {
    let lua = Lua::new();
    let patterns: [&[u8]; 34] = [
        b"",
        b"b",
        b"^b",
        b"b$",
        b"(a+)(b*)",
        b"()b()",
        b"%d+",
        b"[%a_][%w_]*",
        b"[^/]+$",
        b".-%.",
        b"%b()",
        b"%f[%w]%w+",
        b"(%a)%1",
        b"[]x]",
        b"[a-c]+",
        b"[^]]",
        b"a?b",
        b"(",
        b")",
        b"%",
        b"[",
        b"[%",
        b"%b(",
        b"%f",
        b"%1",
        b"((a)(b))",
        b"a-b",
        b"[a-]",
        b"%z",
        b"x*",
        b"(x*)y",
        b"[%d%.]+",
        b"%u%l",
        b"%",
    ];
    let texts: [&[u8]; 9] = [
        b"",
        b"aab",
        b"key=value; x",
        b"/a/b.c",
        b"f(a(b)c)d",
        b"aa]x",
        b"1.2.3",
        b"a\0b",
        b"Hello World",
    ];
    for text in texts {
        for pattern in patterns {
            check(&lua, text, pattern);
        }
    }
}

#[test]
fn random_patterns_match_as_luajits_own() {
    let lua = Lua::new();
    let mut random = fastrand::Rng::with_seed(7);
    let alphabet = b"aab.%[]^$*+-?()%wd1fbz";
    for _ in 0..20_000 {
        let mut some = |max: usize, of: &[u8]| {
            (0..random.usize(..max)).map(|_| of[random.usize(..of.len())]).collect::<Vec<_>>()
        };
        let (pattern, text) = (some(9, alphabet), some(9, b"aab1.(]"));
        check(&lua, &text, &pattern);
    }
}

#[test]
fn a_pattern_that_takes_for_ever_ends_with_its_steps() {
    let text = vec![b'a'; 4096];
    let pattern = [&b".-".repeat(30)[..], b"b"].concat();
    let mut matcher = Matcher::new(&text, &pattern, 100_000);
    assert_eq!(matcher.find(0, false), Err(PatternError::OutOfSteps));
    assert_eq!(matcher.steps(), 0);
    let deep = b"a?".repeat(500);
    let error = Matcher::new(&text, &deep, 100_000).find(0, false).unwrap_err();
    assert_eq!(error, PatternError::Malformed("pattern too complex"));
}
