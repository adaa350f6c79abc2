//! Lua's patterns, matched with a bound on the work.
//!
//! Owns: matching a pattern at a place of a text, as the reference manual of Lua 5.1 describes it (§5.4.1), with `%f` and
//! `\0` as LuaJIT has them. Refuses to know: Lua's values, and what is done with a match. Keeps: the number of steps is
//! bounded by the caller, since a pattern can take time exponential in its length; recursion is bounded.

/// The most captures of a pattern, as in Lua.
const CAPTURES: usize = 32;

/// The depth of recursion, as in LuaJIT.
const DEPTH: u32 = 200;

/// Why matching ended without a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PatternError {
    /// The pattern is wrong.
    Malformed(&'static str),
    /// All steps were taken.
    OutOfSteps,
}

/// What a capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// From here to there.
    Text(usize, usize),
    /// `()`: a place.
    Place(usize),
}

/// A match, with its captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternMatch {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) captures: Vec<Capture>,
}

/// Matches one pattern in one text.
#[derive(Debug)]
pub(crate) struct Matcher<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    steps: u64,
    depth: u32,
    /// Beginning and, once closed, length.
    captures: Vec<(usize, CaptureLength)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaptureLength {
    Open,
    Place,
    Closed(usize),
}

type Matched = Result<Option<usize>, PatternError>;

const fn malformed<T>(what: &'static str) -> Result<T, PatternError> {
    Err(PatternError::Malformed(what))
}

impl<'a> Matcher<'a> {
    /// `steps` is how many may be taken in all.
    pub(crate) const fn new(text: &'a [u8], pattern: &'a [u8], steps: u64) -> Self {
        Self { text, pattern, steps, depth: 0, captures: Vec::new() }
    }

    /// The steps that are left.
    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    /// The first match at `from` or behind it; at `from` only, if `anchored`.
    pub(crate) fn find(
        &mut self,
        from: usize,
        anchored: bool,
    ) -> Result<Option<PatternMatch>, PatternError> {
        let last = if anchored { from } else { self.text.len() };
        for start in from..=last.max(from) {
            self.captures.clear();
            self.depth = 0;
            if let Some(end) = self.at(start, 0)? {
                return self.matched(start, end).map(Some);
            }
        }
        Ok(None)
    }

    fn matched(&self, start: usize, end: usize) -> Result<PatternMatch, PatternError> {
        let capture = |(from, length): &(usize, CaptureLength)| match length {
            CaptureLength::Closed(length) => Ok(Capture::Text(*from, from + length)),
            CaptureLength::Place => Ok(Capture::Place(*from)),
            CaptureLength::Open => malformed("unfinished capture"),
        };
        let captures = self.captures.iter().map(capture).collect::<Result<_, _>>()?;
        Ok(PatternMatch { start, end, captures })
    }

    fn step(&mut self) -> Result<(), PatternError> {
        self.steps = self.steps.checked_sub(1).ok_or(PatternError::OutOfSteps)?;
        Ok(())
    }

    /// Matches the pattern from `p` on at `s`; returns the end.
    fn at(&mut self, s: usize, p: usize) -> Matched {
        self.depth += 1;
        if self.depth > DEPTH {
            return malformed("pattern too complex");
        }
        let matched = self.sequence(s, p);
        self.depth -= 1;
        matched
    }

    fn sequence(&mut self, mut s: usize, mut p: usize) -> Matched {
        loop {
            self.step()?;
            let Some(&first) = self.pattern.get(p) else { return Ok(Some(s)) };
            match (first, self.pattern.get(p + 1)) {
                (b'(', Some(b')')) => return self.open(s, p + 2, CaptureLength::Place),
                (b'(', _) => return self.open(s, p + 1, CaptureLength::Open),
                (b')', _) => return self.close(s, p + 1),
                (b'%', Some(b'b')) => match self.balance(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (b'%', Some(b'f')) => {
                    let class = p + 2;
                    if self.pattern.get(class) != Some(&b'[') {
                        return malformed("missing '[' after '%f' in pattern");
                    }
                    let end = self.class_end(class)?;
                    let before = s.checked_sub(1).map_or(0, |at| self.text[at]);
                    let here = self.text.get(s).copied().unwrap_or(0);
                    if self.in_set(before, class, end - 1) || !self.in_set(here, class, end - 1) {
                        return Ok(None);
                    }
                    p = end;
                }
                (b'%', Some(digit)) if digit.is_ascii_digit() => {
                    match self.back_reference(s, *digit)? {
                        Some(end) => (s, p) = (end, p + 2),
                        None => return Ok(None),
                    }
                }
                (b'$', None) => return Ok((s == self.text.len()).then_some(s)),
                _ => {
                    let end = self.class_end(p)?;
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if self.single(s, p, end)
                                && let Some(end) = self.at(s + 1, end + 1)?
                            {
                                return Ok(Some(end));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.longest(s, p, end, 0),
                        Some(b'+') => return self.longest(s, p, end, 1),
                        Some(b'-') => return self.shortest(s, p, end),
                        _ if self.single(s, p, end) => (s, p) = (s + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    fn open(&mut self, s: usize, p: usize, length: CaptureLength) -> Matched {
        if self.captures.len() >= CAPTURES {
            return malformed("too many captures");
        }
        self.captures.push((s, length));
        let kept = self.captures.len() - 1;
        let matched = self.at(s, p)?;
        if matched.is_none() {
            self.captures.truncate(kept);
        }
        Ok(matched)
    }

    fn close(&mut self, s: usize, p: usize) -> Matched {
        let open = self.captures.iter().rposition(|(_, length)| *length == CaptureLength::Open);
        let Some(index) = open else { return malformed("invalid pattern capture") };
        self.captures[index].1 = CaptureLength::Closed(s - self.captures[index].0);
        let matched = self.at(s, p)?;
        if matched.is_none() {
            self.captures[index].1 = CaptureLength::Open;
        }
        Ok(matched)
    }

    fn balance(&mut self, s: usize, p: usize) -> Matched {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return malformed("unbalanced pattern");
        };
        if self.text.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.text.len() {
            self.step()?;
            let byte = self.text[at];
            if byte == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    fn back_reference(&mut self, s: usize, digit: u8) -> Matched {
        let index = usize::from(digit).checked_sub(usize::from(b'1'));
        let capture = index.and_then(|index| self.captures.get(index)).copied();
        let Some((from, CaptureLength::Closed(length))) = capture else {
            return malformed("invalid capture index");
        };
        self.steps = self.steps.checked_sub(length as u64 / 8).ok_or(PatternError::OutOfSteps)?;
        let captured = &self.text[from..from + length];
        Ok(self.text[s..].starts_with(captured).then_some(s + length))
    }

    fn longest(&mut self, s: usize, p: usize, end: usize, min: usize) -> Matched {
        let mut count = 0;
        while self.single(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if count < min {
                return Ok(None);
            }
            if let Some(end) = self.at(s + count, end + 1)? {
                return Ok(Some(end));
            }
            let Some(fewer) = count.checked_sub(1) else { return Ok(None) };
            count = fewer;
        }
    }

    fn shortest(&mut self, mut s: usize, p: usize, end: usize) -> Matched {
        loop {
            if let Some(end) = self.at(s, end + 1)? {
                return Ok(Some(end));
            }
            if !self.single(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    /// The end of the single character class that begins at `p`.
    fn class_end(&self, p: usize) -> Result<usize, PatternError> {
        match self.pattern[p] {
            b'%' if p + 1 < self.pattern.len() => Ok(p + 2),
            b'%' => malformed("malformed pattern (ends with '%')"),
            b'[' => {
                let mut at = p + 1;
                if self.pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                // A `]` at the beginning is a character.
                loop {
                    let Some(&byte) = self.pattern.get(at) else {
                        return malformed("malformed pattern (missing ']')");
                    };
                    at += if byte == b'%' { 2 } else { 1 };
                    if self.pattern.get(at) == Some(&b']') {
                        return Ok(at + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Whether the byte at `s` is of the class at `p`, which ends before `end`.
    fn single(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&byte) = self.text.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => is_of_class(byte, self.pattern[p + 1]),
            b'[' => self.in_set(byte, p, end - 1),
            literal => literal == byte,
        }
    }

    /// Whether a byte is in the set from `[` at `p` to `]` at `last`.
    fn in_set(&self, byte: u8, p: usize, last: usize) -> bool {
        let set = &self.pattern[..last];
        let mut at = p + 1;
        let negated = set.get(at) == Some(&b'^');
        at += usize::from(negated);
        while let Some(&first) = set.get(at) {
            if first == b'%' {
                if set.get(at + 1).is_some_and(|class| is_of_class(byte, *class)) {
                    return !negated;
                }
                at += 2;
            } else if let (Some(b'-'), Some(&upper)) = (set.get(at + 1), set.get(at + 2)) {
                if (first..=upper).contains(&byte) {
                    return !negated;
                }
                at += 3;
            } else {
                if first == byte {
                    return !negated;
                }
                at += 1;
            }
        }
        negated
    }
}

fn is_of_class(byte: u8, class: u8) -> bool {
    let is = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'g' => byte.is_ascii_graphic(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => byte == b'\x0b' || byte.is_ascii_whitespace(),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return class == byte,
    };
    is != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests;
