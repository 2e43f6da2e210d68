// What the type checker must refuse: each `@ts-expect-error` is an error itself where nothing is wrong below it.
import { type CreateDocumentError, createDocument, getDocumentFile, putDocumentFile } from './client/index.js';
import { apiItemsCreate, getItemAttachments, type ItemCard } from './example/index.js';

const path = { id: '1' };
const file = new Blob();

export async function misuse(error: CreateDocumentError): Promise<unknown[]> {
    const created = await createDocument({ body: { title: 'x' } });
    return [
        // @ts-expect-error a title is required
        createDocument({ body: { file } }),
        // @ts-expect-error a file is bytes, not their name
        createDocument({ body: { title: 'x', pages: ['document.pdf'] } }),
        // @ts-expect-error pages are a list
        createDocument({ body: { title: 'x', pages: file } }),
        // @ts-expect-error a field that the form does not know
        createDocument({ body: { title: 'x', more: '1' } }),
        // @ts-expect-error a file needs its document
        getDocumentFile({ path: {} }),
        // @ts-expect-error a raw body is bytes
        putDocumentFile({ path, body: { file } }),
        // @ts-expect-error nobody is told where a file is stored
        created.data?.file?.location,
        // @ts-expect-error what `extra` holds depends on the status
        error.extra.limit,
        // @ts-expect-error a file is required here
        apiItemsCreate({ body: { title: 'x' } }),
        // @ts-expect-error one of the list must be named
        getItemAttachments({ path }),
    ];
}

export async function use(): Promise<ItemCard | undefined> {
    const { data, error } = await apiItemsCreate({ body: { file } });
    if (error?.status_code === 413) console.log(error.extra.limit);
    if (error?.status_code === 422 && Array.isArray(error.extra)) console.log(error.extra[0]?.field);
    return data;
}
