//! Text from others, escaped for a terminal.
//!
//! Escapes of a terminal can retitle it, hide lines, or make the next command look like another.
//! Characters that change the order of writing can make one file name look like another
//! (<https://trojansource.codes>). Both are shown by their number.

use std::fmt::Write as _;

/// `text` on one line, with an escape in place of each character that acts on a terminal or hides.
/// A backslash is doubled, so that nothing written out looks like an escape.
pub(crate) fn one_line(text: &str) -> String {
    let escape = |c| c == '\\' || is_unseen(c);
    escaped(text, escape, |shown, c| shown.extend(c.escape_default()))
}

/// Escapes control characters in `text`, but for line feeds and tabs.
pub(crate) fn harmless(text: &str) -> String {
    let escape = |c| is_unseen(c) && !matches!(c, '\n' | '\t');
    escaped(text, escape, |shown, c| shown.extend(c.escape_default()))
}

/// The same JSON, whose strings have `\u` escapes in place of what acts on a terminal.
pub(crate) fn json(json: &str) -> String {
    escaped(json, is_unseen, |shown, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(shown, "\\u{unit:04x}");
        }
    })
}

/// `text` with `escape` in place of each character for which `is_it` holds.
fn escaped(text: &str, is_it: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_it(c) {
            true => escape(&mut shown, c),
            false => shown.push(c),
        }
    }
    shown
}

/// `true` if `c` acts on a terminal (controls, line and paragraph separators, the order of writing)
/// or takes no room and joins nothing. What joins letters or pictures is text.
/// A zero-width joiner is left, because emoji and some scripts need it.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_escapes_of_others_are_written_out() {
        for (text, shown) in [
            (
                "plain \u{e9} \u{1f469}\u{200d}\u{1f680}",
                "plain \u{e9} \u{1f469}\u{200d}\u{1f680}",
            ),
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\u{1b}[2J\u{7f}\u{9b}0m", r"\u{1b}[2J\u{7f}\u{9b}0m"),
            (
                "\u{202e}\u{2028}\u{feff}\u{e0041}",
                r"\u{202e}\u{2028}\u{feff}\u{e0041}",
            ),
            (r"a\nb", r"a\\nb"),
            ("say \"it's\"", "say \"it's\""),
        ] {
            assert_eq!(one_line(text), shown);
        }
        assert_eq!(harmless("a\\b\n\tc\u{1b}"), "a\\b\n\tc\\u{1b}");
    }

    #[test]
    fn terminal_escapes_in_json_mean_the_same() {
        let text = "\u{1b}\n\u{9b}\u{202e}\u{e0041}\\ \u{e9}";
        let json = json(&serde_json::Value::from(text).to_string());
        assert!(!json.contains(is_unseen), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read, text);
    }
}
