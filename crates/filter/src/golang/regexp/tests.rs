use super::Regexp;

#[test]
fn expressions_match_as_in_go() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("", &["", "a"], &[]),
        ("api", &["api", "my-api-1"], &["ap", "API"]),
        ("^api$", &["api"], &["api-1", "api\n", "x\napi"]),
        ("(?m)^api$", &["x\napi\ny"], &["x api"]),
        ("(?i)API-[a-c]", &["api-B"], &["api-d"]),
        ("a(?i)b(?-i)c", &["aBc"], &["aBC", "Abc"]),
        ("(?i:a)b", &["Ab"], &["AB"]),
        ("((?i)a|b)c", &["Bc"], &["BC"]),
        ("a.c", &["abc", "aüc"], &["a\nc", "ac"]),
        ("(?s)a.c", &["a\nc"], &["ac"]),
        ("^a*$", &["", "aaa"], &["ab"]),
        ("^(a|b)+?c?$", &["ab", "abc"], &["", "c"]),
        ("^a{2,3}$", &["aa", "aaa"], &["a", "aaaa"]),
        ("^a{2,}$", &["aa", "aaaaa"], &["a"]),
        ("^a{0}b$", &["b"], &["ab"]),
        ("^(a*)*$", &["", "aa"], &["b"]),
        ("^a{,2}$", &["a{,2}"], &["aa"]),
        ("^\\d+\\s\\w\\S\\D\\W$", &["12 _xy-"], &["1 _ xy-", "١ _xy-"]),
        ("\\bapi\\b", &["my api-1"], &["myapi"]),
        ("a\\B.", &["ab"], &["a-"]),
        ("^[^a-c]$", &["d", "\n"], &["a", ""]),
        ("^[]a-]+$", &["]a-"], &["b"]),
        ("^[[:alpha:][:^ascii:]_]+$", &["aü_"], &["1"]),
        ("^[\\d\\x{41}-C]+$", &["1ABC"], &["D"]),
        ("^\\Qa.b\\E+$", &["a.bb"], &["axb"]),
        ("^\\x41\\101\\.\\n$", &["AA.\n"], &["AAx\n"]),
        ("^(?P<name>x)|y$", &["xa", "ay"], &["ax"]),
        ("\\Aa\\z", &["a"], &["a\n"]),
        ("a||b", &[""], &[]),
    ];
    for (pattern, fits, others) in cases {
        let regexp = Regexp::compile(pattern).unwrap();
        for text in *fits {
            assert!(regexp.matches(text), "{pattern} does not match {text:?}");
        }
        for text in *others {
            assert!(!regexp.matches(text), "{pattern} matches {text:?}");
        }
    }
}

#[test]
fn time_and_size_are_bounded() {
    let regexp = Regexp::compile("^(a|a)*(a*)*$").unwrap();
    assert!(!regexp.matches(&("a".repeat(4096) + "b")));
    assert!(Regexp::compile(&"(.{999})".repeat(30)).unwrap_err().contains("instructions"));
}
