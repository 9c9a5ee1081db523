//! Conversations → the text that a model was trained on, by the model's own template.
//!
//! The text is the one that transformers' `apply_chat_template` gives, byte for byte. `guard` tells which of its control
//! tokens the template wrote, and which are only words of a message.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::jinja::{Allowance, Fault, Inputs, Template};
use crate::error::{Error, Result, quote};
use crate::source::Location;

/// One message of a conversation: a role, mostly a content, and whatever else the template knows. Fields keep their order.
///
/// ```
/// use fireside::Message;
///
/// let question = Message::user("How warm is it in Paris?");
/// let call = Message::assistant("").with("tool_calls", serde_json::json!([
///     { "type": "function", "function": { "name": "weather", "arguments": { "city": "Paris" } } }
/// ]));
/// let answer: Message = serde_json::from_str(r#"{"role": "tool", "name": "weather", "content": "21 °C"}"#)?;
/// assert_eq!((answer.role(), answer.text().as_str()), ("tool", "21 °C"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Message(Map<String, Value>);

impl Message {
    /// A message of any role, such as `tool` or `developer`. Roles are structure: some templates put them inside of control
    /// tokens, so they are not to be taken from whoever writes the content.
    pub fn new(role: &str, content: impl Into<String>) -> Message {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), json!(role));
        fields.insert("content".to_owned(), Value::String(content.into()));
        Message(fields)
    }

    /// What the model is to keep to.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    /// What a person says.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }

    /// With one more field, such as `tool_calls`, `tool_call_id`, `name` or `reasoning_content`.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Message {
        self.0.insert(field.to_owned(), value.into());
        self
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.0["role"].as_str().unwrap_or_default()
    }

    /// The text of its content, all parts of it.
    pub fn text(&self) -> String {
        match self.0.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => String::new(),
        }
    }

    /// A field as it stands.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    pub(super) fn fields(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl TryFrom<Map<String, Value>> for Message {
    type Error = String;

    fn try_from(fields: Map<String, Value>) -> Result<Message, String> {
        match (fields.get("role"), fields.get("content")) {
            (None, _) => Err("expected a message with a `role`".to_owned()),
            (Some(role), _) if !role.is_string() => Err(format!("expected a text as `role`, found {role}")),
            (_, None | Some(Value::Null | Value::String(_) | Value::Array(_))) => Ok(Message(fields)),
            (_, Some(_)) => Err("expected a text or a list of parts as `content`".to_owned()),
        }
    }
}

impl From<Message> for Map<String, Value> {
    fn from(message: Message) -> Map<String, Value> {
        message.0
    }
}

/// What else a template is told. Names are those of `apply_chat_template`.
#[derive(Clone, Debug, Default)]
pub struct ChatOptions {
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// Documents that it may quote, each with `title` and `text`.
    pub documents: Vec<Value>,
    /// Whether the assistant's turn is opened; by default yes.
    pub add_generation_prompt: Option<bool>,
    /// The last message is the beginning of the answer, and is left open.
    pub continue_final_message: bool,
    /// Variables of the template's own, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The time that `strftime_now` shows, in UTC; by default the present.
    pub now: Option<SystemTime>,
}

/// A model's chat templates and the special tokens that they name.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    templates: Vec<Named>,
    tokens: Vec<(String, Value)>,
    origin: String,
}

/// One template of a model, which may have several. One that does not parse is in nobody's way until it is chosen.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    source: String,
    parsed: Result<Template, Fault>,
}

/// What every template that has no name of its own is called.
const DEFAULT: &str = "default";

/// The template for conversations with tools, where there is one of that name.
const WITH_TOOLS: &str = "tool_use";

/// The folder of a model's further templates, each `<name>.jinja`.
pub(crate) const FURTHER: &str = "additional_chat_templates";

/// The files that say how a model is talked to.
pub(crate) struct ChatFiles {
    pub(crate) tokenizer_config: Option<Location>,
    pub(crate) special_tokens_map: Option<Location>,
    /// chat_template.jinja
    pub(crate) jinja: Option<Location>,
    /// chat_template.json
    pub(crate) json: Option<Location>,
    /// Names and files of `FURTHER`.
    pub(crate) further: Vec<(String, Location)>,
}

impl ChatFiles {
    /// Those that lie beside a model's config.json.
    pub(crate) fn beside(config: &Location) -> ChatFiles {
        let present = |name: &str| match config {
            Location::Disk(path) => Some(path.with_file_name(name)).filter(|path| path.is_file()).map(Location::Disk),
            Location::Embedded(..) => None,
        };
        ChatFiles {
            tokenizer_config: present("tokenizer_config.json"),
            special_tokens_map: present("special_tokens_map.json"),
            jinja: present("chat_template.jinja"),
            json: present("chat_template.json"),
            further: if let Location::Disk(path) = config {
                further(&path.with_file_name(FURTHER))
            } else {
                Vec::new()
            },
        }
    }
}

/// The templates of a folder, by name.
fn further(folder: &Path) -> Vec<(String, Location)> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".jinja")?.to_owned();
        path.is_file().then_some((name, Location::Disk(path)))
    };
    let mut found: Vec<_> = files.filter_map(named).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

const SPECIAL: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Time for all renders of one conversation.
const TIME: Duration = Duration::from_millis(150);

const BROKEN: &str = "give another template with `--chat-template FILE`, or continue a text with `generate`";

impl ChatTemplate {
    /// A template in Jinja, as a `chat_template.jinja` holds it.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        ChatTemplate::named(vec![(DEFAULT.to_owned(), source.to_owned())], "the chat template")
    }

    /// Templates by name, of which `default` serves where no other is asked for, and `tool_use` where there are tools. A
    /// single one must parse.
    pub(crate) fn named(sources: Vec<(String, String)>, origin: &str) -> Result<ChatTemplate> {
        let parse = |(name, source): (String, String)| Named { parsed: Template::new(&source), name, source };
        let templates: Vec<Named> = sources.into_iter().map(parse).collect();
        let found = ChatTemplate { templates, tokens: Vec::new(), origin: origin.to_owned() };
        if let [only] = &found.templates[..] {
            found.parsed(only)?;
        }
        Ok(found)
    }

    fn parsed<'a>(&self, template: &'a Named) -> Result<&'a Template> {
        let broken = |fault: &Fault| {
            let which =
                if template.name == DEFAULT { String::new() } else { format!(", template {}", quote(&template.name)) };
            Error::prompt(format!("{}{which} does not parse: {}", self.origin, said(fault)), BROKEN)
        };
        template.parsed.as_ref().map_err(broken)
    }

    /// With the value of a variable such as `bos_token`.
    #[must_use]
    pub fn with_token(mut self, name: &str, token: &str) -> ChatTemplate {
        self.tokens.retain(|(known, _)| known != name);
        self.tokens.push((name.to_owned(), json!(token)));
        self
    }

    /// The same special tokens, with another template.
    pub(crate) fn replaced(self, source: &str) -> Result<ChatTemplate> {
        Ok(ChatTemplate { tokens: self.tokens, ..ChatTemplate::new(source)? })
    }

    /// A model's template, or one without any template where its files have none.
    pub(crate) fn load(files: &ChatFiles) -> Result<ChatTemplate> {
        let json = |location: &Option<Location>| -> Result<Option<(String, Value)>> {
            let Some(location) = location else { return Ok(None) };
            let value: Value = serde_json::from_str(&location.read_text()?).map_err(|error| {
                Error::file(location.path(), format!("expected JSON: {error}"), "the file is damaged; copy it again")
            })?;
            Ok(Some((quote(&location.path().display().to_string()), value)))
        };
        let config = json(&files.tokenizer_config)?;
        let map = json(&files.special_tokens_map)?;
        // As in transformers: a file of its own, or files, stand for all that the settings have.
        let mut sources = (Vec::new(), String::new());
        let default = files.jinja.iter().map(|jinja| (DEFAULT, jinja));
        for (name, file) in default.chain(files.further.iter().map(|(name, file)| (name.as_str(), file))) {
            if sources.0.is_empty() {
                sources.1 = quote(&file.path().display().to_string());
            }
            sources.0.push((name.to_owned(), file.read_text()?.into_owned()));
        }
        let alone = json(&files.json)?;
        for (origin, value) in config.iter().chain(&alone) {
            if sources.0.is_empty() {
                sources = (sources_in(&value["chat_template"], origin)?, origin.clone());
            }
        }
        let mut template = ChatTemplate::named(sources.0, &sources.1)?;
        for (_, value) in map.iter().chain(&config) {
            let Some(object) = value.as_object() else { continue };
            for (name, token) in object.iter().filter(|(name, _)| name.ends_with("_token")) {
                let token = token.as_str().or_else(|| token["content"].as_str());
                let known = SPECIAL.contains(&name.as_str()) || !name.starts_with("add_");
                if let (Some(token), true) = (token, known) {
                    template = template.with_token(name, token);
                }
            }
        }
        Ok(template)
    }

    /// False where the model has no template.
    pub fn is_some(&self) -> bool {
        !self.templates.is_empty()
    }

    /// The template's source, of the one that serves without tools.
    pub fn source(&self) -> Option<&str> {
        self.choose(false).ok().map(|template| template.source.as_str())
    }

    /// The names of all templates: `default` serves where no other is asked for, `tool_use` where there are tools.
    pub fn names(&self) -> Vec<&str> {
        self.sources().map(|(name, _)| name).collect()
    }

    /// Names and sources of all templates; `default` is the one that serves where no other is asked for.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.templates.iter().map(|template| (template.name.as_str(), template.source.as_str()))
    }

    /// The template that transformers would take.
    fn choose(&self, tools: bool) -> Result<&Named> {
        let find = |wanted: &str| self.templates.iter().find(|template| template.name == wanted);
        let for_tools = if tools { find(WITH_TOOLS) } else { None };
        for_tools.or_else(|| find(DEFAULT)).ok_or_else(|| match self.templates.is_empty() {
            true => Error::prompt("the model has no chat template", BROKEN),
            false => {
                let names: Vec<String> = self.templates.iter().map(|template| quote(&template.name)).collect();
                let problem = format!("expected a chat template `{DEFAULT}`, found {}", names.join(", "));
                Error::prompt(problem, "give one with `--chat-template FILE`")
            }
        })
    }

    /// The text of a conversation, as transformers' `apply_chat_template` writes it.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let mut rendering = self.rendering(messages, options)?;
        rendering.text()
    }

    /// A conversation, ready to be rendered.
    pub(super) fn rendering(&self, messages: &[Message], options: &ChatOptions) -> Result<Rendering<'_>> {
        let template = self.parsed(self.choose(!options.tools.is_empty())?)?;
        let opens = options.add_generation_prompt;
        if messages.is_empty() {
            return Err(Error::prompt("the conversation is empty, expected at least one message", ""));
        }
        if options.continue_final_message && opens == Some(true) {
            return Err(Error::setting(
                "continue_final_message",
                "does not go together with `add_generation_prompt`",
                "the first goes on with the last message, the second opens a new one: leave out one of the two",
            ));
        }
        let list = |values: &[Value]| if values.is_empty() { Value::Null } else { Value::Array(values.to_vec()) };
        let mut variables = vec![
            ("messages".to_owned(), Value::Array(messages.iter().map(as_seen).collect())),
            ("tools".to_owned(), list(&options.tools)),
            ("documents".to_owned(), list(&options.documents)),
            ("add_generation_prompt".to_owned(), json!(opens.unwrap_or(!options.continue_final_message))),
        ];
        for (name, value) in self.tokens.iter().map(|(name, value)| (name, value)).chain(&options.variables) {
            variables.retain(|(known, _)| known != name);
            variables.push((name.clone(), value.clone()));
        }
        let bytes: usize = messages.iter().map(|message| message.text().len()).sum();
        let time = TIME + TIME.mul_f64(bytes as f64 / f64::from(1 << 20));
        Ok(Rendering {
            template,
            origin: &self.origin,
            variables,
            open: options.continue_final_message,
            now: options.now.unwrap_or_else(SystemTime::now),
            time: Allowance::new(time),
        })
    }
}

/// The templates of a tokenizer_config.json: one, or a list of named ones.
fn sources_in(value: &Value, origin: &str) -> Result<Vec<(String, String)>> {
    let wrong =
        || Error::prompt(format!("expected a text or a list of named texts as `chat_template` in {origin}"), BROKEN);
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(source) => Ok(vec![(DEFAULT.to_owned(), source.clone())]),
        Value::Array(list) => {
            let named =
                |entry: &Value| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
            list.iter().map(|entry| named(entry).ok_or_else(wrong)).collect()
        }
        Value::Object(object) => {
            let named = |(name, source): (&String, &Value)| Some((name.clone(), source.as_str()?.to_owned()));
            object.iter().map(|entry| named(entry).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// A message as transformers shows it to templates: without what is null, its reasoning under both of its names.
fn as_seen(message: &Message) -> Value {
    let fields = message.fields();
    let mut seen = Map::new();
    let reasoning = ["reasoning_content", "thinking", "reasoning"].into_iter().filter_map(|name| fields.get(name));
    let reasoning = reasoning.into_iter().find(|value| !value.is_null());
    if let Some(reasoning) = reasoning {
        seen.insert("thinking".to_owned(), reasoning.clone());
    }
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        seen.insert(name.clone(), value.clone());
    }
    if let Some(reasoning) = reasoning {
        seen.insert("reasoning_content".to_owned(), reasoning.clone());
    }
    Value::Object(seen)
}

/// One conversation and the template that it is rendered by.
pub(super) struct Rendering<'a> {
    template: &'a Template,
    origin: &'a str,
    pub(super) variables: Vec<(String, Value)>,
    /// The last message is left open.
    open: bool,
    now: SystemTime,
    time: Allowance,
}

/// What marks the end of an open message until the text is there; transformers' own.
const OPEN_END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl Rendering<'_> {
    pub(super) fn template(&self) -> &Template {
        self.template
    }

    /// The text for the variables as they are.
    pub(super) fn text(&mut self) -> Result<String> {
        if !self.open {
            return self.run();
        }
        let original = self.variables[0].1.clone();
        let wrong = |problem: &str| {
            Error::setting("continue_final_message", problem, "end the conversation with an assistant's text")
        };
        let last = self.variables[0].1.as_array_mut().and_then(|messages| messages.last_mut());
        let content = last.and_then(|message| message.get_mut("content"));
        let part = match content {
            Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
            other => other,
        };
        let Some(Value::String(text)) = part else { return Err(wrong("finds no text in the last message")) };
        let wanted = text.clone();
        text.push_str(OPEN_END);
        let outcome = self.run();
        self.variables[0].1 = original;
        let mut out = outcome?;
        let Some(at) = out.rfind(OPEN_END.trim_end()).filter(|_| out.contains(wanted.trim())) else {
            return Err(wrong("finds that the template drops parts of the last message"));
        };
        let kept_spaces = out[at..].starts_with(OPEN_END);
        out.truncate(at);
        if !kept_spaces {
            out.truncate(out.trim_end().len());
        }
        Ok(out)
    }

    fn run(&self) -> Result<String> {
        let inputs = Inputs { variables: &self.variables, now: self.now, time: &self.time };
        self.template.render(&inputs).map_err(|fault| match fault.raised {
            true => Error::prompt(format!("the chat template refuses the conversation: {}", fault.message), ""),
            false => Error::prompt(format!("{} fails: {}", self.origin, said(&fault)), BROKEN),
        })
    }
}

fn said(fault: &Fault) -> String {
    match fault.line {
        Some(line) => format!("line {line}: {}", fault.message),
        None => fault.message.clone(),
    }
}
