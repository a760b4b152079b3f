// What a user of the official client for Node does, against the service at the address given.
// Prints one line: a JSON object of what came back.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'sk-any', maxRetries: 0 });
const user = { role: 'user', content: 'hi' };
const tools = [{ type: 'function', function: { name: 'now', parameters: { type: 'object' } } }];

async function text(stream) {
  let said = '';
  for await (const chunk of stream) said += chunk.choices[0]?.delta?.content ?? '';
  return said;
}

async function failure(work) {
  try {
    await work();
  } catch (error) {
    return { kind: error.constructor.name, status: error.status ?? null, message: error.message };
  }
  return null;
}

const ask = (model, body = {}) =>
  client.chat.completions.create({ model, messages: [user], ...body });

async function callTool(model) {
  const messages = [user];
  const stream = client.chat.completions.stream({ model, messages, tools, store: true });
  const { message } = (await stream.finalChatCompletion()).choices[0];
  const [call] = message.tool_calls;
  messages.push(message, { role: 'tool', tool_call_id: call.id, content: '12:00' });
  const answer = await client.chat.completions.create({
    model: 'official', messages, tools, store: true,
  });
  return { arguments: call.function.arguments, answer: answer.choices[0].message.content };
}

async function keepChat() {
  const messages = [];
  const conversations = [];
  for (const content of ['one', 'two', 'three']) {
    messages.push({ role: 'user', content });
    const { data, response } = await client.chat.completions
      .create({ model: 'official', messages, store: true })
      .withResponse();
    messages.push(data.choices[0].message);
    conversations.push(response.headers.get('x-conversation-id'));
  }
  return conversations;
}

async function leave() {
  const stream = await ask('words:1000:0.01', { stream: true });
  for await (const _ of stream) break;
}

const results = {
  whole: (await ask('official')).choices[0].message.content,
  streamed: await text(await ask('hello', { stream: true })),
  tool: await callTool('tool'),
  refused: await failure(() => ask('refuse:429:1')),
  cutOff: await failure(async () => text(await ask('cut:in-character', { stream: true }))),
  unknown: await failure(() => client.models.retrieve('poe/nobody')),
  retried: await text(
    await client.chat.completions.create(
      { model: 'flaky:503:1', messages: [user], stream: true }, { maxRetries: 2 },
    ),
  ),
  impatient: await failure(() =>
    client.chat.completions.create({ model: 'silent', messages: [user] }, { timeout: 300 }),
  ),
  models: (await client.models.list()).data.map((model) => model.id),
  found: (await client.models.retrieve('openai/hello')).id,
  embedding: (await client.embeddings.create({ model: 'embedding', input: 'x' })).data[0].embedding,
  response: (await client.responses.create({ model: 'response', input: 'x' })).output_text,
  kept: await keepChat(),
};
await leave();
console.log(JSON.stringify(results));
