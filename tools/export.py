from mmyolo_ext.cli.export import main

if __name__ == '__main__':
    main()
