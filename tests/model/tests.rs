use std::io::Write as _;

use super::*;

/// Asks as a client does; the status and the body.
fn ask(model: &Model, path: &str, key: &str, body: &Value) -> (u16, String) {
    let mut stream = TcpStream::connect(model.address).unwrap();
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: it\r\n{key}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn call() -> Step {
    Step::Call("incident_get", json!({"why": "a test"}))
}

#[test]
fn each_protocol_has_its_way_to_call_a_tool() {
    let model = Model::start("k", vec![call()]).unwrap();
    let (_, title) = ask(&model, "/v1/messages", "x-api-key: k", &json!({"model": "m"}));
    assert!(title.contains(r#""end_turn""#) && model.asked().is_empty(), "{title}");
    let tool = json!({"name": "mcp__it__incident_get"});
    let (status, said) =
        ask(&model, "/v1/messages", "x-api-key: k", &json!({"model": "m", "tools": [tool]}));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, &said["content"][0]["name"]), (200, &tool["name"]), "{said:#}");
    assert_eq!(said["content"][0]["input"], json!({"why": "a test"}));

    let group =
        json!({"type": "namespace", "name": "mcp__it", "tools": [{"name": "incident_get"}]});
    let (_, said) = ask(
        &model,
        "/v1/responses",
        "authorization: Bearer k",
        &json!({"stream": true, "tools": [group]}),
    );
    let done = said.lines().find(|line| line.contains("output_item.done\",")).unwrap_or(&said);
    assert!(done.contains(r#""namespace":"mcp__it""#), "{said}");
    assert!(said.contains(r#""name":"incident_get""#), "{said}");

    let declared = json!({"functionDeclarations": [{"name": "mcp_it_incident_get"}]});
    let given = json!({"parts": [{"functionResponse": {"response": {"output": "so"}}}]});
    let (_, said) = ask(
        &model,
        "/v1beta/models/g:streamGenerateContent?alt=sse",
        "x-goog-api-key: k",
        &json!({"tools": [declared], "contents": [given]}),
    );
    assert!(said.starts_with("data: "), "{said}");
    assert!(said.contains(r#""name":"mcp_it_incident_get""#), "{said}");

    let asked = model.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|it| it.right_key && it.tools.len() == 1), "{asked:#?}");
    assert_eq!(asked[1].tools, ["mcp__it__incident_get"]);
    assert_eq!(
        (asked[2].model.as_str(), &asked[2].results[..]),
        ("g", &[r#"{"output":"so"}"#.to_owned()][..])
    );
    assert_eq!(asked[1].headers["authorization"], "right");
}

#[test]
fn steps_come_in_order_and_the_last_one_stays() {
    let model = Model::start("k", vec![Step::Status(500), Step::Text("done".into())]).unwrap();
    let ask = |key: &str| ask(&model, "/v1/messages", key, &json!({"stream": true})).0;
    assert_eq!([ask("x-api-key: k"), ask("x-api-key: k"), ask("x-api-key: k")], [500, 200, 200]);
    assert_eq!(ask("x-api-key: another"), 401);
    let asked = model.asked();
    assert!(!asked[3].right_key);
    assert_eq!(asked[3].headers["x-api-key"], "wrong");
}

#[test]
fn a_tool_is_known_by_the_end_of_its_name() {
    let is = |name: &str| Tool { group: None, name: name.into() }.is("incident_get");
    for name in ["incident_get", "mcp__s__incident_get", "s.incident_get", "s_incident_get"] {
        assert!(is(name), "{name}");
    }
    for name in ["incident_gets", "myincident_get", ""] {
        assert!(!is(name), "{name}");
    }
}

#[test]
fn a_body_in_chunks_is_read() {
    let bytes = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n";
    let request = Request::read(&mut BufReader::new(&bytes[..])).unwrap();
    assert_eq!(request.json(), json!({"a": 1}));
}
