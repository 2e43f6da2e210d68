// Sends and fetches documents through the generated client, and prints what happened.
import { createHash } from 'node:crypto';
import { openAsBlob } from 'node:fs';
import { writeFile } from 'node:fs/promises';

import { client } from './client/client.gen.js';
import {
    type CreateDocumentError,
    createDocument,
    getDocumentFile,
    getDocumentPages,
    headDocumentFile,
    postStagedDocuments,
    putDocumentFile,
} from './client/index.js';

const report: Record<string, unknown> = {};

// [set-up]
client.setConfig({
    baseUrl: process.env.API_URL ?? 'http://127.0.0.1:8000',
    auth: () => process.env.API_TOKEN,
    parseAs: 'blob', // a file is bytes, whatever its type
});
// [form]
const pdf = new File([await openAsBlob('document.pdf')], 'document.pdf');
const page = new File([await openAsBlob('page.png')], 'page.png');
const created = await createDocument({ body: { title: 'Invoice', file: pdf, pages: [page, page] }, parseAs: 'json' });
if (!created.data) throw new Error(`not created: ${created.error.detail}`);

const document = created.data; // typed: document.file?.checksum, document.page_ids, …
// [whole]
const path = { id: document.id };
const whole = await getDocumentFile({ path });
if (!whole.data) throw new Error('not there');

await writeFile('downloaded.pdf', whole.data.stream());
const tag = whole.response?.headers.get('ETag') ?? '';
// [range]
const part = await getDocumentFile({ path, headers: { Range: 'bytes=100-199' } }); // part.response.status is 206
// [conditional]
const again = await getDocumentFile({ path, headers: { 'If-None-Match': tag } }); // 304: the copy is still good
// [replace]
const other = await openAsBlob('other.pdf');
const digest = createHash('sha256').update(await other.bytes()).digest('base64');
const replaced = await putDocumentFile({
    path,
    body: other,
    query: { filename: 'other.pdf' },
    headers: { 'If-Match': tag, 'Repr-Digest': `sha-256=:${digest}:` },
    parseAs: 'json',
});
const late = await putDocumentFile({ path, body: other, headers: { 'If-Match': tag } }); // 412: it has changed
// [token]
const staged = await postStagedDocuments({ body: pdf, query: { filename: 'first.pdf' }, parseAs: 'json' });
if (!staged.data) throw new Error('not staged');

const later = await createDocument({ body: { title: 'Later', file: staged.data.token }, parseAs: 'json' });
const twice = await createDocument({ body: { title: 'Twice', file: staged.data.token }, parseAs: 'json' });
// [errors]
function explain(error: CreateDocumentError): string {
    switch (error.status_code) {
        case 413: // error.extra is a Refusal here: { code, field?, limit?, value? }
        case 415:
            return `${error.extra.field}: ${error.extra.code}, allowed is ${error.extra.limit}`;
        case 422: // a form names every field that is wrong
            if (Array.isArray(error.extra)) return error.extra.map((each) => `${each.field}: ${each.code}`).join(', ');
            return error.extra.code;
        default:
            return error.detail;
    }
}
// [end]
report.created = document;
report.part = { status: part.response?.status, range: part.response?.headers.get('Content-Range') };
report.part_sha256 = createHash('sha256').update((await part.data?.bytes()) ?? '').digest('hex');
report.again = again.response?.status;
report.replaced = { status: replaced.response?.status, ...replaced.data };
report.from_token = later.data?.file?.filename;
report.twice = twice.error && explain(twice.error);
report.late = { status: late.response?.status, detail: late.error?.detail };

const fetched = await getDocumentPages({ path: { ...path, item: document.page_ids[1] ?? '' }, query: { download: true } });
report.page_sha256 = createHash('sha256').update((await fetched.data?.bytes()) ?? '').digest('hex');
report.page_disposition = fetched.response?.headers.get('Content-Disposition');

const head = await headDocumentFile({ path });
report.head = { status: head.response?.status, length: head.response?.headers.get('Content-Length') };

async function refusal(body: Parameters<typeof createDocument>[0]['body']): Promise<unknown> {
    const { error, response } = await createDocument({ body });
    return { status: response?.status, explained: error && explain(error) };
}
const large = new Blob(['%PDF-1.7\n', new Uint8Array(5 * 1024 * 1024)]);
report.too_large = await refusal({ title: 'Large', file: large });
report.wrong_type = await refusal({ title: 'Not a picture', pages: [pdf] });
report.wrong_form = await refusal({ title: '', pages: Array.from({ length: 11 }, () => page) });

const altered = await putDocumentFile({ path, body: pdf, headers: { 'Repr-Digest': `sha-256=:${digest}:` } });
report.altered = altered.error?.status_code === 422 ? altered.error.extra.code : altered.response?.status;
const unknown = await headDocumentFile({ path, auth: () => 'wrong' });
report.unknown = unknown.response?.status;

console.log(JSON.stringify(report));
