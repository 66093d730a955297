//! The token that goes with a request.

use std::fs;

use super::{scripted_agent::health_response, *};

fn client_with_token(agent: &ScriptedAgent, token: config::Token) -> Consul {
    Consul::new(&config::ConsulSettings { token: Some(token), ..settings(agent) }).unwrap()
}

fn sent_tokens(agent: &ScriptedAgent) -> Vec<Option<String>> {
    let token =
        |text: &String| text.lines().find_map(|line| Some(line.strip_prefix("x-consul-token: ")?.to_owned()));
    agent.requests().iter().map(token).collect()
}

#[tokio::test]
async fn a_given_token_goes_with_every_request() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let consul = client_with_token(&agent, config::Token::Value(config::Secret::new("abc")));
    watch(&consul, 0).await.unwrap();
    watch(&consul, 5).await.unwrap();
    assert_eq!(sent_tokens(&agent), [Some("abc".into()), Some("abc".into())]);
}

#[tokio::test]
async fn no_token_and_an_empty_one_send_no_header() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    watch(&client(&agent), 0).await.unwrap();
    watch(&client_with_token(&agent, config::Token::Value(config::Secret::new("\n"))), 0).await.unwrap();
    assert_eq!(sent_tokens(&agent), [None, None]);
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "first\n").unwrap();
    let consul = client_with_token(&agent, config::Token::File(path.clone()));
    watch(&consul, 0).await.unwrap();
    watch(&consul, 0).await.unwrap();
    let next = dir.path().join("next");
    fs::write(&next, "other\n").unwrap();
    fs::rename(&next, &path).unwrap();
    watch(&consul, 0).await.unwrap();
    fs::write(&path, "the third").unwrap();
    watch(&consul, 0).await.unwrap();
    let expected = ["first", "first", "other", "the third"].map(|token| Some(token.to_owned()));
    assert_eq!(sent_tokens(&agent), expected);
}

#[tokio::test]
async fn a_new_token_is_reported_with_the_next_question_and_an_equal_one_is_not() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "first").unwrap();
    let consul = client_with_token(&agent, config::Token::File(path.clone()));
    let mut credentials = consul.watch_credentials();
    for (text, changed) in [("first\n", false), ("other", true), ("other\n\n", false), ("the third", true)] {
        fs::write(&path, text).unwrap();
        watch(&consul, 0).await.unwrap();
        assert_eq!(credentials.has_changed().unwrap(), changed, "{text:?}");
        credentials.mark_unchanged();
    }
}

#[tokio::test]
async fn other_settings_replace_the_token_and_the_wait() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let file = config::Token::File(path.clone());
    let error = Consul::read_credentials(Some(&file)).unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");

    fs::write(&path, "second").unwrap();
    let consul = client_with_token(&agent, config::Token::Value(config::Secret::new("first")));
    watch(&consul, 0).await.unwrap();
    let mut credentials = consul.watch_credentials();
    let wait = std::time::Duration::from_secs(7);
    for (token, sent) in [(Some(&file), true), (None, false)] {
        consul.apply_settings(wait, Some(Consul::read_credentials(token).unwrap()));
        assert!(credentials.has_changed().unwrap());
        credentials.mark_unchanged();
        watch(&consul, 0).await.unwrap();
        assert_eq!(consul.empty_hint().unwrap().contains("no token is set"), !sent);
    }
    consul.apply_settings(wait, None);
    assert!(!credentials.has_changed().unwrap());
    assert_eq!(consul.longest_wait(), wait);
    assert_eq!(sent_tokens(&agent), [Some("first".to_owned()), Some("second".to_owned()), None]);
}

#[tokio::test]
async fn a_token_file_that_becomes_unusable_leaves_the_last_token_in_use() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "good").unwrap();
    let consul = client_with_token(&agent, config::Token::File(path.clone()));
    watch(&consul, 0).await.unwrap();
    fs::remove_file(&path).unwrap();
    watch(&consul, 0).await.unwrap();
    for content in ["", "two\nlines", &"x".repeat(5000)] {
        fs::write(&path, content).unwrap();
        watch(&consul, 0).await.unwrap();
    }
    assert_eq!(sent_tokens(&agent), [const { Some("good") }; 5].map(|token| token.map(str::to_owned)));
    fs::write(&path, "better").unwrap();
    watch(&consul, 0).await.unwrap();
    assert_eq!(sent_tokens(&agent)[5], Some("better".into()));
}

fn make_pipe(path: &std::path::Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[tokio::test]
async fn a_pipe_that_replaces_the_token_file_does_not_block_requests() {
    let agent = ScriptedAgent::answering(health_response("5", "[]")).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    fs::write(&path, "good").unwrap();
    let consul = client_with_token(&agent, config::Token::File(path.clone()));
    for is_pipe in [true, false] {
        fs::remove_file(&path).unwrap();
        if is_pipe {
            make_pipe(&path);
        } else {
            std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        }
        let asked = tokio::time::timeout(std::time::Duration::from_secs(30), watch(&consul, 0));
        asked.await.expect("no wait for the other end").unwrap();
    }
    assert_eq!(sent_tokens(&agent), [Some("good".into()), Some("good".into())]);
}

#[test]
fn a_token_file_that_cannot_be_used_at_start_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let open = |path: &std::path::Path| {
        let token = Some(config::Token::File(path.to_owned()));
        Consul::new(&config::ConsulSettings { token, ..config::ConsulSettings::default() })
    };
    let fails = |path: &std::path::Path| {
        let error = open(path).unwrap_err();
        assert_eq!(error.label(), "file");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    };
    fails(&path);
    fails(dir.path());
    // Neither blocks, nor fills the memory.
    fails(std::path::Path::new("/dev/zero"));
    let pipe = dir.path().join("pipe");
    make_pipe(&pipe);
    fails(&pipe);
    for content in ["", " \n", "two\nlines", &"x".repeat(5000)] {
        fs::write(&path, content).unwrap();
        fails(&path);
    }
    fs::write(&path, "good").unwrap();
    assert!(open(&path).is_ok());
}

#[test]
fn a_given_token_that_no_header_can_carry_is_refused_at_start() {
    let token = config::Token::Value(config::Secret::new("a\nb"));
    let settings = config::ConsulSettings { token: Some(token), ..config::ConsulSettings::default() };
    let error = Consul::new(&settings).unwrap_err();
    assert_eq!(error.label(), "file");
    assert!(!format!("{error:?} {error}").contains("a\nb"));
}
