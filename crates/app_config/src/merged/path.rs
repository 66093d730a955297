//! The parts of a property's name.

/// Most parts of a name; a name with more is one part. It bounds how deep the objects are nested.
const MAX_DEPTH: usize = 64;

/// A name in its parts: `db.hosts[0]` is `db`, `hosts`, 0. `level[com.example]` is `level`, `com.example`, as in Spring: brackets
/// keep dots.
///
/// A name that has no such form, as `a..b` or `a[`, is one part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PropertyPath(Vec<PathSegment>);

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PathSegment {
    /// An item of a list.
    Index(u32),
    /// A member of an object.
    Name(String),
}

impl PropertyPath {
    pub(super) fn of(name: &str) -> Self {
        let segments = split(name).filter(|segments| segments.len() <= MAX_DEPTH);
        Self(segments.unwrap_or_else(|| vec![PathSegment::Name(name.to_owned())]))
    }

    pub(super) fn segments(&self) -> &[PathSegment] {
        &self.0
    }

    /// The beginnings of the path, from the first part alone up to the whole.
    pub(super) fn beginnings(&self) -> impl Iterator<Item = &[PathSegment]> {
        (1..=self.0.len()).map(|len| &self.0[..len])
    }

    /// The lists that the path goes through: what is before each index.
    pub(super) fn lists(&self) -> impl Iterator<Item = &[PathSegment]> {
        let indexes =
            self.0.iter().enumerate().filter(|(_, segment)| matches!(segment, PathSegment::Index(_)));
        indexes.map(|(at, _)| &self.0[..at])
    }
}

/// `None`: the name does not have this form.
fn split(name: &str) -> Option<Vec<PathSegment>> {
    let mut segments = Vec::new();
    let mut rest = name;
    loop {
        if let Some(inner) = rest.strip_prefix('[') {
            let (part, after) = inner.split_once(']')?;
            segments.push(bracketed(part)?);
            rest = after;
        } else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len());
            let part = rest.get(..end).filter(|part| !part.is_empty())?;
            segments.push(PathSegment::Name(part.to_owned()));
            rest = &rest[end..];
        }
        match rest.chars().next() {
            None => return Some(segments),
            // `a.[0]` is not a name.
            Some('.') if !rest.starts_with(".[") => rest = &rest[1..],
            Some('[') => {}
            Some(_) => return None,
        }
    }
}

fn bracketed(part: &str) -> Option<PathSegment> {
    if part.is_empty() || part.contains('[') {
        return None;
    }
    let is_number = part.bytes().all(|byte| byte.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    let index = if is_number { part.parse().ok() } else { None };
    Some(index.map_or_else(|| PathSegment::Name(part.to_owned()), PathSegment::Index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> String {
        let segment = |segment: &PathSegment| match segment {
            PathSegment::Index(index) => index.to_string(),
            PathSegment::Name(name) => format!("{name:?}"),
        };
        PropertyPath::of(name).segments().iter().map(segment).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_name_is_split_at_dots_and_brackets() {
        for (name, expected) in [
            ("a", r#""a""#),
            ("a.b-c.d_e", r#""a" "b-c" "d_e""#),
            ("a[0].b[12][3]", r#""a" 0 "b" 12 3"#),
            ("[0].a", r#"0 "a""#),
            ("level[com.example].x", r#""level" "com.example" "x""#),
            ("a[01]", r#""a" "01""#),
            ("a[99999999999]", r#""a" "99999999999""#),
            ("é.ü", r#""é" "ü""#),
            ("a b", r#""a b""#),
        ] {
            assert_eq!(shown(name), expected, "{name}");
        }
    }

    #[test]
    fn a_name_of_another_form_is_one_part() {
        for name in [
            "", ".", "a.", ".a", "a..b", "a[", "a]", "a[]", "a[0]b", "a.[0]", "a[[0]]", "a[0", "[", "a[b[0]]",
        ] {
            assert_eq!(shown(name), format!("{name:?}"));
        }
        let deep = vec!["a"; 65].join(".");
        assert_eq!(shown(&deep), format!("{deep:?}"));
        assert_eq!(PropertyPath::of(&deep[2..]).segments().len(), 64);
    }

    #[test]
    fn the_lists_of_a_path_are_before_its_indexes() {
        let path = PropertyPath::of("a.b[0][1].c");
        assert_eq!(path.lists().map(<[_]>::len).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(path.beginnings().count(), 5);
        assert!(PropertyPath::of("a[2]") < PropertyPath::of("a[10]"));
    }
}
