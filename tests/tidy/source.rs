//! The files of the repository, and Rust without its comments and strings.

use std::fs;
use std::path::Path;

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// From the root of the repository, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// With comments and the insides of strings blanked, for Rust; lines stay where they are.
    pub(crate) code: String,
}

impl File {
    /// A file of that text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { blank(text) } else { text.to_owned() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Whether it is there for tests alone.
    pub(crate) fn is_test(&self) -> bool {
        self.path.contains("tests/") || self.path.ends_with("/tests.rs")
    }

    /// A complaint about a place in it.
    pub(crate) fn at(&self, offset: usize, what: &str) -> String {
        let line = self.code[..offset].matches('\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }
}

/// Files by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree(pub(crate) Vec<File>);

impl Tree {
    /// All text files of this repository that people write.
    pub(crate) fn of_this_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut tree = Self::default();
        walk(root, root, &mut tree.0);
        tree.0.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(tree.0.len() > 50, "the repository was not found");
        tree
    }

    /// A tree of one file, for tests of rules.
    pub(crate) fn of(path: &str, text: &str) -> Self {
        Self(vec![File::new(path, text)])
    }

    /// The same with another file.
    pub(crate) fn with(mut self, path: &str, text: &str) -> Self {
        self.0.push(File::new(path, text));
        self
    }

    /// Rust files below one of these.
    pub(crate) fn rust<'a>(&'a self, roots: &'a [&str]) -> impl Iterator<Item = &'a File> {
        let under = move |file: &&File| roots.iter().any(|root| file.path.starts_with(root));
        self.0.iter().filter(|file| file.path.ends_with(".rs")).filter(under)
    }

    /// The file of that path.
    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.0.iter().find(|file| file.path == path)
    }
}

fn walk(root: &Path, dir: &Path, files: &mut Vec<File>) {
    const NOT_OURS: &[&str] = &["target", ".git", ".tidings-dev", "Cargo.lock", "corpus", "artifacts"];
    for entry in fs::read_dir(dir).expect("the repository can be read") {
        let path = entry.expect("the repository can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if NOT_OURS.contains(&name) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, files);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root).expect("found below it").to_string_lossy().replace('\\', "/");
            files.push(File::new(&path, &text));
        }
    }
}

/// Where a word stands, alone: neither its neighbours nor it belong to a longer name.
pub(crate) fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next())
    })
}

/// Rust with its comments and the insides of its strings and characters turned into blanks.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Past the comment, string or character that begins at `at`; `at` if none does.
fn skip(chars: &[char], at: usize) -> usize {
    let peek = |n: usize| chars.get(at + n).copied().unwrap_or('\0');
    let before = at.checked_sub(1).map_or('\0', |at| chars[at]);
    match (chars[at], peek(1)) {
        ('/', '/') => at + chars[at..].iter().take_while(|c| **c != '\n').count(),
        ('/', '*') => block_comment(chars, at),
        ('"', _) => quoted(chars, at, '"'),
        ('r', '"' | '#') if !(before.is_alphanumeric() || before == '_') || before == 'b' => raw(chars, at),
        // A character, and not a lifetime: it ends after one character or begins with an escape.
        ('\'', '\\') => quoted(chars, at, '\''),
        ('\'', _) if peek(2) == '\'' => at + 3,
        _ => at,
    }
}

fn block_comment(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn raw(chars: &[char], from: usize) -> usize {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let mut at = from + 2 + hashes;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

#[test]
fn blanks_what_is_not_code_and_nothing_else() {
    let text = "let a = \"x // y\"; // dbg\nlet b = 'c'; let d: &'a str = r#\"\"z\"#; /* e /* f */ g */ h('\\'', b\"i\")";
    let code = blank(text);
    for gone in ["x", "dbg", "c'", "z", "e", "f", "g", "i"] {
        assert_eq!(words(&code, gone).count(), 0, "{gone} in {code}");
    }
    for kept in ["a", "b", "d", "str", "h"] {
        assert!(words(&code, kept).count() > 0, "{kept} in {code}");
    }
    assert_eq!(code.matches('\n').count(), 1);
    assert_eq!(words("a ab b_a a", "a").collect::<Vec<_>>(), [0, 9]);
}
